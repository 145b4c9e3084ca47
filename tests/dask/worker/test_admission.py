"""Which calls of a worker may start."""

from __future__ import annotations

from dask_limits.dask.worker.admission import AdmissionControl
from dask_limits.placement.resources import Request


def test_small_calls_overtake_a_large_one_a_few_times_and_then_wait_for_it():
    admission = AdmissionControl(memory=100, cores=1000)
    running = admission.reserve(Request(60), order=0)
    large = admission.reserve(Request(80), order=1)
    small = [admission.reserve(Request(1), order=n) for n in range(2, 30)]
    overtook = sum(one.is_granted for one in small)
    assert 1 <= overtook < len(small)
    assert not large.is_granted
    for one in small[:overtook]:
        admission.release(one)
    assert not any(one.is_granted for one in small)
    admission.release(running)
    assert large.is_granted
    assert all(one.is_granted for one in small[overtook : overtook + 20])


def test_those_that_may_start_at_one_time_overtake_no_more_often():
    admission = AdmissionControl(memory=100, cores=1000)
    admission.reserve(Request(60), order=0)
    second = admission.reserve(Request(40), order=1)
    admission.reserve(Request(80), order=2)
    small = [admission.reserve(Request(1), order=n) for n in range(3, 30)]
    admission.release(second)
    assert sum(one.is_granted for one in small) == 10


def test_a_call_that_waits_no_more_lets_those_behind_it_start():
    admission = AdmissionControl(memory=100, cores=1)
    admission.reserve(Request(0), order=0)
    first, second = (admission.reserve(Request(0), order=n) for n in (1, 2))
    admission.release(first)
    admission.release(first)
    assert first.wait() is False
    assert not second.is_granted


def test_a_call_that_has_seceded_gives_its_cores_back_once():
    admission = AdmissionControl(memory=100, cores=1)
    seceded = admission.reserve(Request(10), order=0)
    second, third = (admission.reserve(Request(10), order=n) for n in (1, 2))
    admission.release_cores(seceded)
    admission.release_cores(seceded)
    admission.release(seceded)
    assert (second.is_granted, third.is_granted) == (True, False)
