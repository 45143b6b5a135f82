"""The Celery application of the lab. Queues are given when a task is sent."""
import time

from celery import Celery

app = Celery("tasks", broker="redis://localhost:6379/0")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=2,
    task_ignore_result=True,
    beat_schedule={
        "tick": {"task": "tasks.nap", "schedule": 5.0, "args": (0,), "options": {"queue": "utilities", "expires": 60}}
    },
)


@app.task
def nap(seconds):
    """Does nothing for a while."""
    time.sleep(seconds)


@app.task
def write(path):
    """Leaves a file behind, so that somebody can see that the task was done."""
    with open(path, "w") as file:
        file.write("done\n")
