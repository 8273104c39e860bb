"""What jobs of `resumed.py` have found."""

from tests.distributed import job

MODULE = "tests.distributed.resumed"


def results(folder, how="", epochs=3, workers=2):
    """What the workers have found. They agree but for moving averages: each has those of its own rows."""
    found = job.results(MODULE, folder, how, epochs, workers=workers)
    for other in found[1:]:
        for name in ("history", "optimizer", "why", "steps"):
            assert found[0][name] == other[name]
    return found


def without_steps(found):
    return [{key: value for key, value in each.items() if key != "steps"} for each in found]


def steps(found):
    """How many steps each worker has run in this call."""
    return found[0]["steps"]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))
