#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=12
#SBATCH --error=/jobs/me/demo-00000000/%j_0_log.err
#SBATCH --gpus-per-node=8
#SBATCH --job-name=demo-00000000
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/jobs/me/demo-00000000/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120

# setup
export SHIFTBENCH_BINDING=closest
export PYTHONPATH=/own
export A='b c'
export SLURM_EXPORT_ENV=ALL  # srun hands these on, whatever the site's default
export PYTHONPATH=/jobs/me/code/abc${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1  # not what lies where the job was submitted
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
[ -e /jobs/me/demo-00000000/"${job}_submitted.pkl" ] || ln -s "task-${SLURM_ARRAY_TASK_ID:-0}.pkl" /jobs/me/demo-00000000/"${job}_submitted.pkl"
export SHIFTBENCH_GRACE_S=120
export SHIFTBENCH_TO_REQUEUE=/jobs/me/demo-00000000/"${job}_to_requeue"
rm -f "$SHIFTBENCH_TO_REQUEUE"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /jobs/me/demo-00000000/%j_%t_log.out --error /jobs/me/demo-00000000/%j_%t_log.err --kill-on-bad-exit=1 --wait=0 --cpus-per-task=12 --cpu-bind=none apptainer exec --nv --bind /runs:/runs,/opt/site:/opt/site:ro,/scratch/mine:/scratch/mine:ro,/jobs/me/demo-00000000:/jobs/me/demo-00000000,/jobs/me/code/abc:/jobs/me/code/abc,/home/me/.cache/shiftbench/data:/home/me/.cache/shiftbench/data,/home/me/.cache/shiftbench/data/indexes:/home/me/.cache/shiftbench/data/indexes,"${TMPDIR:?}":"${TMPDIR:?}","${IMAGENET:?}"/packs:"${IMAGENET:?}"/packs:ro --pwd /jobs/me/demo-00000000 "${IMAGES:?}"'/it'"'"'s.sif' /usr/bin/env -u PYTHONHOME PYTHONNOUSERSITE=1 SHIFTBENCH_BINDING="$SHIFTBENCH_BINDING" PYTHONPATH=/jobs/me/code/abc:/own A="$A" PYTHONSAFEPATH=1 SHIFTBENCH_IMAGE="${IMAGES:?}"'/it'"'"'s.sif' SHIFTBENCH_DATA_DIR=/home/me/.cache/shiftbench/data /opt/py/bin/python -u -m jobs.cluster.in_image /jobs/me/demo-00000000

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
