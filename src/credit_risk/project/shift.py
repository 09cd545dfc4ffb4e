"""The steps by which a release gets the traffic, on AWS and in the rehearsal alike."""

from collections.abc import Callable

STEPS = (5, 25, 100)  # percent


def shift_traffic(set_weight: Callable[[int], None], watch: Callable[[], None]) -> None:
    """Gives the new servers more of the traffic in steps; takes all of it back as soon as anything is wrong.

    Args:
        set_weight: gives the new servers a percentage of the traffic.
        watch: watches the new servers for a while; raises if they are bad.
    """
    try:
        for percent in STEPS:
            set_weight(percent)
            watch()
    except BaseException:
        set_weight(0)
        raise
