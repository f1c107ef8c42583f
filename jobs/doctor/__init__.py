"""Checks of a cluster before the first job: on its login machine and on its nodes.

A topic is a module with probes and checks. To add one, write the module and add its line here.
"""

from jobs.doctor import (
    accounts,
    bandwidth,
    container,
    controller,
    gpu_state,
    network,
    partition,
    preemption,
    reading,
    software,
    storage,
    training,
)

# In the order in which they are asked and printed: of a Slurm cluster's login machine, before any job starts,
# and of the nodes, or of this machine when it is the cluster. A node prints each answer as soon as it has it,
# so topics whose probes may hang come last.
LOGIN_TOPICS = (
    *(controller.TOPIC, controller.SETTINGS, partition.TOPIC, accounts.TOPIC, preemption.TOPIC),
    container.TOPIC,
    controller.TEST_ONLY,
)
NODE_TOPICS = (
    *(software.START, container.ON_NODES, network.TOPIC, storage.TOPIC, software.TOPIC, training.TOPIC),
    *(gpu_state.TOPIC, reading.TOPIC, bandwidth.TOPIC),
)
