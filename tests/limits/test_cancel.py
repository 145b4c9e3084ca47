from dask_limits.limits import CancelToken


def test_a_token_that_is_cancelled_before_the_start_says_so():
    token = CancelToken()
    token.cancel()
    assert not token.on_cancel(lambda: None)


def test_a_call_that_is_over_is_not_ended():
    token, ended = CancelToken(), []
    assert token.on_cancel(lambda: ended.append(1))
    token.on_cancel(None)
    token.cancel()
    assert ended == []


def test_a_call_is_ended_once():
    token, ended = CancelToken(), []
    token.on_cancel(lambda: ended.append(1))
    token.cancel()
    token.cancel()
    assert ended == [1]
