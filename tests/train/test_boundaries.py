"""What happens at a step's boundary: the loss's check, the ranks' agreement, the clocks, the heartbeat."""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from torch import nn

from suite.errors import Diverged, UserError
from suite.paths import RunPaths
from suite.record import RankTimes, Record, RecordWriter, read_rank_times, read_status
from suite.signals import StopFlag
from suite.train import heartbeat
from suite.train.background import Background
from suite.train.boundary import CHECK_LOSS_EVERY_STEPS
from suite.train.clock import GpuClock
from suite.train.distributed import Ranks
from suite.train.finite import FiniteCheck
from suite.train.heartbeat import Heartbeat, Next
from suite.train.loop import Trainer
from suite.train.meter import Meter
from suite.train.metric_logger import MetricLogger
from suite.train.nvml import Nvml, PeakMemory
from tests.helpers.host_waits import FakeEvent, fake_events
from tests.helpers.runs import make_run, tiny_run

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


# ------------------------------------------------------------ the loss


def test_an_answer_is_read_when_it_has_come_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_with_events(monkeypatch)
    check.ask(torch.tensor(float("nan")), 20)
    (event,) = FakeEvent.recorded
    assert not check.look()
    assert (event.num_waits, check.failed_at) == (0, None)
    event.done_at_ms = 1.0
    assert check.look()
    assert check.failed_at == 20
    check.ask(torch.tensor(1.0), 40)
    assert check.look(wait=True)
    assert check.failed_at == 20  # the first one


def test_a_late_answer_is_waited_for_before_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_with_events(monkeypatch)
    check.ask(torch.tensor(float("inf")), 20)
    check.ask(torch.tensor(1.0), 40)
    assert FakeEvent.recorded[0].num_waits == 1
    assert check.failed_at == 20


def check_with_events(patch: pytest.MonkeyPatch) -> FiniteCheck:
    """A check as on a GPU, with memory that is not pinned."""
    with fake_events(patch.setattr):
        check = FiniteCheck(CPU)
        check._copied = FakeEvent()
    return check


# ------------------------------------------------------------ the ranks


class Exchanges(Ranks):
    """Two ranks, of which this is the first; the other's wishes, boundary by boundary, are given."""

    def others(self, wishes: list[Next]) -> "Exchanges":
        object.__setattr__(self, "wishes", iter(wishes))
        return self

    def begin_to_agree(self, code: int) -> Any:
        code = max(code, next(self.wishes))
        return type("Later", (), {"result": lambda _: code})()


def trainer_beside(wishes: list[Next], **system: Any) -> Trainer:
    """The first of two ranks, with a loss of 1 and ten steps an epoch; both hold the whole batch."""
    run = make_run(
        data={"name": "synthetic", "num_classes": 10, "image_size": 28, "train_images": 80, "val_images": 8},
        batch={"global_batch_size": 8, "batch_size_per_gpu": 4},
        measure={"tid": False},
        system=system,
    )
    ranks = Exchanges(0, 0, 2, CPU).others(wishes)
    return Trainer(run, ranks, None, StopFlag())


def decisions(trainer: Trainer, count: int, loss: float = 1.0) -> list[Next]:
    found = []
    for _ in range(count):
        trainer.step += 1
        found.append(trainer.agree(torch.tensor(loss)))
        if found[-1] is not Next.CONTINUE:
            break
    return found


def test_the_ranks_stop_a_step_after_the_wish() -> None:
    go, stop = Next.CONTINUE, Next.STOP_WARNED
    # The wish, then the step in which it is read, and last whether the loss of that step is finite.
    trainer = trainer_beside([go, go, stop, go, stop])
    assert decisions(trainer, 9) == [go, go, go, stop]
    assert trainer.step == 4


def test_a_wish_before_a_checkpoint_or_an_epochs_end_is_settled_there() -> None:
    go, stop = Next.CONTINUE, Next.STOP
    trainer = trainer_beside([go, go, go, stop], checkpoint_every_steps=4)
    assert decisions(trainer, 9) == [go, go, go, stop]
    assert trainer.step == 4
    trainer = trainer_beside([go] * 9 + [stop], checkpoint_every_epochs=5)
    assert decisions(trainer, 12) == [go] * 9 + [stop]


def test_a_loss_that_is_not_finite_is_named_by_its_step() -> None:
    trainer = trainer_beside([Next.CONTINUE] * 40, checkpoint_every_epochs=50)
    trainer.steps_per_epoch = 100
    with pytest.raises(Diverged, match=f"not finite at step {CHECK_LOSS_EVERY_STEPS} "):
        decisions(trainer, 30, loss=float("nan"))
    assert trainer.step == CHECK_LOSS_EVERY_STEPS + 1  # a step later, as any wish


def test_no_checkpoint_is_written_of_a_loss_that_is_not_finite() -> None:
    trainer = trainer_beside([Next.CONTINUE, Next.STOP, Next.CONTINUE, Next.CONTINUE])
    with pytest.raises(Diverged, match="not finite at step 3 "):
        decisions(trainer, 9, loss=float("nan"))


# ------------------------------------------------------------ the clocks


def test_steps_are_timed_by_the_gpu_when_it_has_done_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_events(monkeypatch.setattr) as events:
        clock = GpuClock()
        assert clock.tick({}) == []
        events[0].done_at_ms = 5.0
        spans = {"data": [(clock.moment(), clock.moment()), (clock.moment(), clock.moment())]}
        assert clock.tick(spans) == []
        for event, at_ms in zip(events[1:], (15.0, 15.0, 15.5, 16.0, 17.0, 18.0), strict=True):
            event.done_at_ms = at_ms
        first, second = clock.tick({})
        assert first == pytest.approx({"total": 0.010})
        assert second == pytest.approx({"total": 0.003, "data": 0.0005 + 0.001})
        assert not any(event.num_waits for event in events)
        events[7].done_at_ms = 20.0
        assert clock.settle() == [pytest.approx({"total": 0.002})]


def on_gpu(patch: pytest.MonkeyPatch) -> None:
    """A GPU of which torch has reserved 1 GiB at most."""
    patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    patch.setattr(torch.cuda, "max_memory_reserved", lambda _: 2**30)
    patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def test_speeds_on_a_gpu_are_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up step of 100 ms, then 10, 10 and 30 ms."""
    on_gpu(monkeypatch)
    with fake_events(monkeypatch.setattr) as events:
        meter = Meter(warmup_steps=1, device=GPU)
        for _ in range(4):
            meter.step_done()
        assert meter.images_per_s(100) is None
        for event, at_ms in zip(events, (7.0, 107.0, 117.0, 127.0, 157.0), strict=True):
            event.done_at_ms = at_ms
        summary = meter.summary(100)
    assert summary["images_per_s"] == pytest.approx(300 / 0.050)
    assert summary["step_time_p50_ms"] == pytest.approx(10)
    assert summary["step_time_p95_ms"] == pytest.approx(28)  # 10 + 0.9 · 20, between the last two of three
    assert summary["peak_memory_gib"] == 1


def test_a_gpus_step_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step from 0 to 20 ms the GPU is idle from 2 to 5 ms, and waits for gradients from 15 to 16 ms."""
    on_gpu(monkeypatch)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with fake_events(monkeypatch.setattr) as events:
        meter = Meter(warmup_steps=0, device=GPU)
        meter.watch_gradients(model)
        with meter.waiting_for_data():
            pass
        model(torch.ones(1, 2)).sum().backward()
        assert len(events) == 4  # one gradient is noted, the last
        meter.gradients_exchanged()
        meter.step_done()
        for event, at_ms in zip(events, (0.0, 2.0, 5.0, 15.0, 16.0, 20.0), strict=True):
            event.done_at_ms = at_ms
        summary = meter.summary(1)
    replayed = Meter(warmup_steps=0, device=CPU)
    replayed.watch_gradients(model, is_replayed=True)
    replayed.step_done()
    assert not {"communication_share", "compute_share"} & replayed.summary(1).keys()
    shares = [summary[f"{name}_share"] for name in ("data_wait", "communication", "compute")]
    assert shares == pytest.approx([3 / 20, 1 / 20, 16 / 20])


def test_memory_that_others_than_torch_hold_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML sees 3 GiB of which torch has 0.5; later DALI gives 1 back; then NVML knows nothing more."""
    on_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2**29)
    nvml = Nvml(CPU)
    held = iter([3 * 2**30, 2 * 2**30, None])
    monkeypatch.setattr(nvml, "process_bytes", lambda: next(held))
    memory = PeakMemory(GPU, nvml)
    assert [memory.look() / 2**30 for _ in range(3)] == [3.5, 3.5, 3.5]


def test_this_process_is_found_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its number, or as the only one: containers number processes anew."""
    own, other = SimpleNamespace(pid=os.getpid(), usedGpuMemory=5), SimpleNamespace(pid=-1, usedGpuMemory=7)
    hidden = SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a-b"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = Nvml(GPU)
    for running, expected in (
        ([other, own], 5),
        ([other], 7),
        ([other, other], None),
        ([], None),
        ([hidden], None),
    ):
        monkeypatch.setattr(
            pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda _, running=running: running
        )
        assert nvml.process_bytes() == expected
    assert Nvml(CPU).process_bytes() is None


def test_the_ranks_times(tmp_path: Path) -> None:
    class Three(Ranks):
        def gather(self, value: torch.Tensor) -> torch.Tensor:
            return torch.stack([value, *others.pop(0)])

        def nodes(self) -> list[str]:
            return ["n1", "n1", "n2"]

    nan = float("nan")
    others = [
        [torch.tensor(times, dtype=torch.float64) for times in two]
        for two in (((12, 20, 1, 5), (9, 20, 2, 0.5)), ((12, 20, 1, 5), (nan, nan, nan, nan)))
    ]
    own = {
        "step_time_p50_ms": 10.0,
        "images_per_s": 500.0,
        "data_wait_share": 0.1,
        "communication_share": 0.4,
    }
    with RecordWriter(tiny_run(), tmp_path) as record:
        metrics = MetricLogger(Three(0, 0, 3, CPU), record)
        for epoch in (1, 2):  # in the second a rank has timed no step
            metrics.of_ranks(own, 10, epoch=epoch, step=3 * epoch)
    assert [(m.metric, m.value, m.epoch) for m in Record.read(tmp_path).measurements()] == [
        ("step_time_slowest_ms", 12.0, 1)
    ]
    found = read_rank_times(RunPaths(tmp_path))
    # 10 images at 500 a second are 20 ms.
    assert found == RankTimes(1, 3, ["n1", "n1", "n2"], [20, 20, 20], [2, 1, 2], [8, 5, 0.5])
    assert found.work_ms == [12, 15, 19.5]
    RunPaths(tmp_path).ranks.write_text(found.text().replace('"n2"', "2"))
    with pytest.raises(UserError, match=r"ranks.json: not as shiftbench writes it: nodes: .* a list of 3"):
        read_rank_times(RunPaths(tmp_path))


# ------------------------------------------------------------ files


def test_an_error_of_a_thread_is_raised_by_the_next_call() -> None:
    background = Background("test")
    background.begin(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.wait()
    background.begin(lambda: 1 / 0)
    while not background._begun[0].done():
        time.sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        background.begin(lambda: None)
    background.close()


def test_what_fails_while_a_run_ends_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    background = Background("test")
    background.begin(lambda: 1 / 0)
    background.close()
    assert "ZeroDivisionError: division by zero" in caplog.text


def heartbeat_of(record: Any, patch: pytest.MonkeyPatch) -> Heartbeat:
    patch.setattr(heartbeat, "EVERY_S", 0.0)
    return Heartbeat(record, StopFlag(), Meter(0, CPU), 100, 8)


def test_a_step_does_not_wait_for_a_slow_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write, run = threading.Event(), make_run()
    with RecordWriter(run, tmp_path) as record:
        record.start({})
        status = record.status
        monkeypatch.setattr(record, "status", lambda *a, **k: may_write.wait(30) and status(*a, **k))
        beating = heartbeat_of(record, monkeypatch)
        for step in (7, 8, 9):  # the first one's write is under way, so that the others begin none
            assert beating.wish(step) is Next.CONTINUE
        assert "step" not in read_status(RunPaths(tmp_path)).content
        may_write.set()
        beating.close()
        content = read_status(RunPaths(tmp_path)).content
        assert (content["step"], content["total_steps"]) == (7, 100)


def test_a_claim_is_seen_and_a_full_disk_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordWriter(make_run(), tmp_path) as record:
        record.start({})
        beating = heartbeat_of(record, monkeypatch)
        record.paths.claim.touch()
        beating.wish(1)
        beating._background.wait()
        assert beating.wish(2) is Next.STOP
        beating._background.wait()

        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(record, "progress", full)
        beating.wish(3)
        while not beating._background._begun[0].done():
            time.sleep(0.001)
        with pytest.raises(OSError, match="No space left"):
            beating.wish(4)
        beating.close()


def test_late_progress_takes_no_step_back(tmp_path: Path) -> None:
    with RecordWriter(make_run(), tmp_path) as record:
        record.start({})
        record.progress(step=8)
        record.progress(step=5, checkpoint_s=0.5)
        content = read_status(RunPaths(tmp_path)).content
        assert (content["step"], content["checkpoint_s"]) == (8, 0.5)
        record.resume(4, [])  # a new attempt does
        assert read_status(RunPaths(tmp_path)).content["step"] == 4


def test_late_progress_changes_no_end(tmp_path: Path) -> None:
    """The data watch ends a process whose checkpoint is still being written."""
    with RecordWriter(make_run(), tmp_path) as record:
        record.start({})
        record.status("preempted", reason="stopped")
        record.progress(step=8, checkpoint_s=0.5)
        assert read_status(RunPaths(tmp_path)).state == "preempted"
