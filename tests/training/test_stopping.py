"""The first signal lets a training loop finish its step and save; the second stops at once."""

import os
import signal

import pytest

from plaudit.training import stopping


@pytest.fixture(autouse=True)
def interruptible():
    """A shell may start this process with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


def train(steps, signals_at):
    """A training loop that gets signals in the middle of steps, and what it has done."""
    done = []
    with stopping.training_loop("sft"):
        for step in range(steps):
            for number in signals_at.get(step, ()):
                send(number)
            done.append(step)
            if stopping.requested():
                done.append("saved")
                stopping.stop()
    return done


def stopped(signals_at, body=train):
    """What a program was stopped with."""
    with pytest.raises(stopping.Stopped) as raised, stopping.signals("stopping after this step"):
        body(5, signals_at)
    return raised.value.number, raised.value.saved


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_loop_finishes_its_step_and_saves(number, capfd):
    before = signal.getsignal(number)
    assert stopped({2: [number]}) == (number, True)
    assert capfd.readouterr().err == "\nstopping after this step\n"
    assert signal.getsignal(number) is before
    assert not stopping.requested()


def test_a_second_signal_stops_at_once():
    assert stopped({2: [signal.SIGINT, signal.SIGTERM]}) == (signal.SIGTERM, False)


def test_outside_of_a_training_loop_the_first_signal_stops_at_once():
    def evaluate(steps, signals_at):
        train(steps, {})
        send(signal.SIGTERM)

    assert stopped({}, evaluate) == (signal.SIGTERM, False)


def test_a_signal_in_a_callback_is_not_lost(capfd):
    class Ended:
        def __del__(self):
            send(signal.SIGINT)

    def evaluate(steps, signals_at):
        done = Ended()
        del done  # Python ignores what __del__ raises
        stopping.stop_if_ignored()

    assert stopped({}, evaluate) == (signal.SIGINT, False)
    assert capfd.readouterr().err == ""


def test_without_the_context_ctrl_c_is_as_ever():
    with pytest.raises(KeyboardInterrupt) as raised:
        train(5, {1: [signal.SIGINT]})
    assert type(raised.value) is KeyboardInterrupt


def test_one_signal_that_comes_by_two_ways_is_one_signal_in_several_processes(monkeypatch):
    """Slurm sends it to each process, and torchrun, which gets it too, passes it on."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert stopped({2: [signal.SIGTERM, signal.SIGTERM]}) == (signal.SIGTERM, True)
    monkeypatch.setattr(stopping, "_TWICE", 0.0)
    assert stopped({2: [signal.SIGTERM, signal.SIGTERM]}) == (signal.SIGTERM, False)
