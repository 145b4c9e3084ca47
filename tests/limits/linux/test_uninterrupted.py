from concurrent.futures import ThreadPoolExecutor

from dask_limits.limits.linux import uninterrupted


def test_threads_may_use_up_the_same_list():
    things, used = [1, 2, 3], []

    def use(thing):
        if not used:
            threads.submit(uninterrupted.use_up, things, used.append).result()
        used.append(thing)

    with ThreadPoolExecutor(1) as threads:
        uninterrupted.use_up(things, use)
    assert things == []
    assert sorted(used) == [1, 2, 3]
