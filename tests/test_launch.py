"""The port that the ranks of a job meet at."""

from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables


def test_ports_differ_after_a_restart_and_within_an_array() -> None:
    def port(job: int, restart: int) -> int:
        env = {
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_JOB_ID": str(job),
            "SLURM_RESTART_COUNT": str(restart),
            "SLURM_PROCID": "1",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NODELIST": "n1",
            "MASTER_ADDR": "n1",
        }
        return int(launch_variables(env)["MASTER_PORT"])

    ports = {(job, restart): port(job, restart) for job in range(1000, 1064) for restart in range(3)}
    assert len(set(ports.values())) == len(ports)
    assert all(FIRST_PORT <= value < FIRST_PORT + NUM_PORTS for value in ports.values())
