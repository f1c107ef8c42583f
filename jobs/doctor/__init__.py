"""Checks of a cluster before the first job: on its login machine and on its nodes.

A topic is a module with probes and a judge. To add one, write the module and add its line here.
"""

from jobs.doctor import accounts, controller, network, partition, preemption, software, storage, training
from jobs.doctor.finding import Topic

# In the order in which they are asked and printed. A node prints each answer as soon as it has it, so
# topics whose probes may hang come last.
TOPICS: tuple[Topic, ...] = (
    controller.TOPIC,
    partition.TOPIC,
    accounts.TOPIC,
    preemption.TOPIC,
    controller.TEST_ONLY,
    software.START,
    network.TOPIC,
    storage.TOPIC,
    software.TOPIC,
    training.TOPIC,
)
