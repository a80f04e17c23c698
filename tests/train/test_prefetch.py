import threading
import time

import pytest
import torch

from mien.train.prefetch import prefetch


def slow_at_even(step):
    time.sleep(0.02 if step % 2 == 0 else 0.0)
    return {"x": torch.full((2, 3, 4, 4), float(step)), "n": torch.tensor([step])}


def test_in_order_whatever_a_batch_takes():
    found = list(prefetch(slow_at_even, 3, 12, threads=3))
    assert [step for step, _ in found] == list(range(3, 12))
    assert all(int(batch["n"]) == step for step, batch in found)
    assert found[0][1]["x"].is_contiguous(memory_format=torch.channels_last)


def test_draws_only_so_far_ahead():
    seen = []

    def sample(step):
        seen.append(step)
        return {}

    batches = prefetch(sample, 0, 1000, ahead=4)
    next(batches)
    batches.close()
    assert max(seen) <= 4


def test_error_of_the_sampler_arrives_at_its_step():
    def sample(step):
        if step == 2:
            raise KeyError("lost")
        return {}

    batches = prefetch(sample, 0, 10)
    assert [next(batches)[0], next(batches)[0]] == [0, 1]
    with pytest.raises(KeyError, match="lost"):
        next(batches)


def test_workers_leave_the_callers_threads_alone():
    result = {}

    def caller():
        torch.set_num_threads(2)
        inside = []

        def sample(step):
            inside.append(torch.get_num_threads())
            return {}

        list(prefetch(sample, 0, 4))
        result["inside"], result["caller"] = set(inside), torch.get_num_threads()

    before = torch.get_num_threads()
    thread = threading.Thread(target=caller)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert result == {"inside": {1}, "caller": 2}


def test_nothing_to_do():
    assert list(prefetch(slow_at_even, 5, 5)) == []
