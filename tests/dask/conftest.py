from clusters import nothing_is_left_behind  # noqa: F401
