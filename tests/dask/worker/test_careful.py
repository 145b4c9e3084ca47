import asyncio
import threading
import time

import pytest

from dask_limits.dask.worker.careful import report_first

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_what_a_late_loop_had_to_send_before_is_sent_when_it_returns(loop):
    """Dask's messages are sent a few turns of the loop after 2 ms."""
    sent, tasks = [], []

    async def send(what):
        await asyncio.sleep(0.002)
        for _ in range(3):
            await asyncio.sleep(0)
        sent.append(what)

    def report():
        tasks.append(loop.create_task(send("start")))
        time.sleep(0.3)

    loop.call_soon_threadsafe(time.sleep, 0.3)
    loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(send("end of another"))))
    report_first(loop, report)
    assert sent == ["end of another", "start"]
