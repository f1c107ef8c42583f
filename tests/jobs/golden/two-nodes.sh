#!/bin/bash

# Parameters
#SBATCH --account='a b'
#SBATCH --array=0-1%1
#SBATCH --constraint='h100|a100'
#SBATCH --cpus-per-task=12
#SBATCH --dependency=afterany:17
#SBATCH --error='/runs/it'"'"'s/.shiftbench/me/demo-00000000/%A_%a_0_log.err'
#SBATCH --exclude='n[3,7]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --job-name=demo-00000000
#SBATCH --mail-type=END
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output='/runs/it'"'"'s/.shiftbench/me/demo-00000000/%A_%a_0_log.out'
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --signal=USR2@120

# setup
export SHIFTBENCH_BINDING=closest
export NCCL_DEBUG=WARN
export ODD='$(touch x) '"'"'y'"'"''
shiftbench_setup=('module load cuda')
shiftbench_at= shiftbench_is_set_up=  # also for a line of set-up that is `set -u`
shiftbench_ends() {
    code=$?; [ -z "$shiftbench_is_set_up" ] || return
    n=$((shiftbench_at - shiftbench_first))
    line=${shiftbench_at:+${shiftbench_setup[n < 0 ? 9999 : n]:-}}
    echo "shiftbench: setup failed with exit code $code: ${line:-$BASH_COMMAND}" >&2
}
set -eE
trap 'shiftbench_at=$LINENO; for n in ${BASH_LINENO[@]}; do ((n == 0)) || shiftbench_at=$n; done' ERR
trap shiftbench_ends EXIT
shiftbench_first=$((LINENO + 1))
module load cuda
set +eE; trap - ERR; shiftbench_is_set_up=yes
export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default
export PYTHONPATH=/runs/code/abc${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1  # not what lies where the job was submitted
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
[ -e '/runs/it'"'"'s/.shiftbench/me/demo-00000000'/"${job}_submitted.pkl" ] || ln -s "task-${SLURM_ARRAY_TASK_ID:-0}.pkl" '/runs/it'"'"'s/.shiftbench/me/demo-00000000'/"${job}_submitted.pkl"
export SHIFTBENCH_GRACE_S=120
export SHIFTBENCH_TO_REQUEUE='/runs/it'"'"'s/.shiftbench/me/demo-00000000'/"${job}_to_requeue"
rm -f "$SHIFTBENCH_TO_REQUEUE"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/runs/it'"'"'s/.shiftbench/me/demo-00000000/%A_%a_%t_log.out' --error '/runs/it'"'"'s/.shiftbench/me/demo-00000000/%A_%a_%t_log.err' --kill-on-bad-exit=1 --wait=0 --cpus-per-task=12 --cpu-bind=none '/opt/my python/bin/python' -u -m jobs.cluster.start_task '/runs/it'"'"'s/.shiftbench/me/demo-00000000'

code=$?

# A task without Slurm's commands leaves it to this script whether its job makes room for another one.
if [ -s "$SHIFTBENCH_TO_REQUEUE" ]; then
    shown=$(scontrol --oneliner show job "$job")
    preempted=${shown#* PreemptTime=} started=${shown#* StartTime=}
    # ISO 8601 orders as text.
    [[ $shown == *" JobState=RUNNING "* && $preempted == [0-9]* &&
        ! ${preempted%% *} < ${started%% *} ]] || rm -f "$SHIFTBENCH_TO_REQUEUE"
fi

# The task's own requests to be requeued failed: the controller may be away for longer than its grace time,
# and in a container there is no scontrol.
for attempt in {1..120}; do
    [ -e "$SHIFTBENCH_TO_REQUEUE" ] || break
    scontrol requeue "$job" && rm -f "$SHIFTBENCH_TO_REQUEUE"
    sleep 5
done
exit $code
