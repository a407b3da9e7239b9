"""A full disk and kills during a write: training and campaigns end with the files of an undisturbed run."""

from collections.abc import Iterator

from torch import nn

from common import train
from common.campaign import run as campaign
from common.campaign.settings import main as campaign_main
from common.executor import ProcessPool
from common.testing import check_full_disk_and_kills, write_image_folder

TRAIN = [
    "--model",
    "test_common_chaos:tiny",
    "--epochs",
    "3",
    "--batch-size",
    "16",
    "--device",
    "cpu",
    "--threads",
    "1",
]
TRAIN += ["--no-latency", "--workers", "0"]
PRELOAD = ["test_common_chaos", "common.data", "common.training", "common.trained_model", "PIL.Image"]


WORK = """
import sys
from common.atomic import write_json
for number in range(2):
    write_json(f"{sys.argv[2]}/{number}.json", {"from": open(sys.argv[3]).read()[:5] if sys.argv[3:] else "", "more": "x" * 200})
"""


def tiny(num_classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, num_classes))


class SerialPool(ProcessPool):
    """A pool that runs jobs in this process."""

    def __init__(self, *arguments) -> None:
        super().__init__()
        self._ended: list = []

    def __class_getitem__(cls, job):
        return cls

    def start(self, job, function, *arguments) -> None:
        from common.executor import _run_job

        self._ended.append((job, _run_job(function, arguments)))

    @property
    def jobs(self) -> list:
        return [job for job, _ in self._ended]

    def wait(self, seconds: float = 0) -> list:
        ended, self._ended = self._ended, []
        return ended

    def finish(self) -> Iterator:
        yield from self.wait()


def run_campaign(words: list[str]) -> int:
    campaign.ProcessPool = SerialPool
    campaign.time.strftime = lambda *_: "now"
    return campaign_main(words)


def test_training_survives_full_disk_and_kills(tmp_path):
    write_image_folder(tmp_path / "images", train=8, test=4)
    words = [*TRAIN, "--dataset", f"folder:{tmp_path / 'images'}", "--out"]
    check_full_disk_and_kills(train.main, words, tmp_path, preload=PRELOAD)


def test_campaign_survives_full_disk_and_kills(tmp_path):
    """Two jobs, the second of which reads the file of the first one."""
    (tmp_path / "work.py").write_text(WORK)
    jobs = [("a", "python work.py --out {out}", ""), ("b", "python work.py --out {out} {a}/1.json", 'needs = ["a"]')]
    plan = tmp_path / "plan.toml"
    plan.write_text("".join(f'[[job]]\nname = "{name}"\nrun = "{run}"\n{more}\n' for name, run, more in jobs))
    words = ["run", str(plan), "--out"]
    check_full_disk_and_kills(
        run_campaign, words, tmp_path, preload=PRELOAD, timed=["speeds.json", "done"], nested=True
    )
