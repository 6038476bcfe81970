"""What makes a job the same work as an earlier one."""

from __future__ import annotations

from pipen_executors.work import words_of

from .specs import job_spec


def test_only_what_a_set_has_shuffled_may_stand_in_any_order() -> None:
    movable = frozenset({b"in/1", b"in/2"})
    one = words_of(b"cat in/1 in/2 --case treated --control untreated", movable)
    assert one == words_of(b"cat in/2 in/1 --case treated --control untreated", movable)
    assert one != words_of(b"cat in/1 in/2 --case untreated --control treated", movable)


def test_swapped_words_of_a_command_are_another_job() -> None:
    one = job_spec(script="compare --case a --control b\n")
    assert one.fingerprint() == job_spec(script="compare --case a --control b\n").fingerprint()
    assert one.fingerprint() != job_spec(script="compare --case b --control a\n").fingerprint()


def test_inputs_from_a_set(tmp_path: str) -> None:
    for name in ("1", "2"):
        open(f"{tmp_path}/{name}", "w").close()
    shuffled = [
        job_spec(
            cwd=str(tmp_path),
            script=f"cat {' '.join(order)}\n",
            inputs=order,
            movable=frozenset(order),
        ).fingerprint()
        for order in (("1", "2"), ("2", "1"))
    ]
    assert shuffled[0] == shuffled[1]
