"""The verdict on a run in words, and the reasons for it: a change, from step a to step b, in these heads, or none.

Apart from the page, so that the same words can be tested without HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from phasewatch.detection.prepare import MIN_CHECKPOINTS
from phasewatch.report.run import RunFacts

INDUCTION_RISE = 0.1  # over chance: what a head's prefix matching must gain to be called an induction head
_ENDED = ("completed", "failed", "cancelled")
_NOUNS = {
    "level": "A change of level",
    "slope": "A change of trend",
    "bump": "A bump (a rise, then a fall)",
    "hidden": "A hidden change (of some tokens, which the mean does not show)",
    "spike": "A spike of one checkpoint",
    "divergence": "A divergence",
}
_HEADS_NAMED = 12
_GROUP = "token_group:"  # begins the series of a group of tokens that has a name


def headlines(facts: RunFacts) -> list[str]:
    """The verdict: a sentence a change, the induction change first; or one that begins with "None"."""
    changes = [change for change in facts.changes if change["kind"] != "spike"]
    induction = [change for change in changes if change["induction"]]
    others = [change for change in changes if not change["induction"]]
    if not changes:
        return [_none(facts)]
    lead = [change_sentence(change) for change in induction] or ["No induction change."]
    return [*lead, *(change_sentence(change) for change in others)]


def _none(facts: RunFacts) -> str:
    n_steps = len(facts.loss_steps)
    if not n_steps:
        return "None: no losses are recorded."
    if n_steps < MIN_CHECKPOINTS:
        return f"None: {_counted(n_steps, 'checkpoint')} with losses, too few to tell (at least {MIN_CHECKPOINTS})."
    if not any(scan["state"] == "done" for scan in facts.scans):
        return "None so far: no scan has looked at this run yet."
    return f"None: no phase change from step {facts.loss_steps[0]} to step {facts.loss_steps[-1]}."


def change_sentence(change: Mapping[str, Any]) -> str:
    """One change: what kind, from when to when, and in which heads and tokens."""
    noun = "An induction change" if change["induction"] else _NOUNS.get(change["kind"], f"A change ({change['kind']})")
    doubts = [_STATES[state] for state in (change["state"], change["review"]) if state in _STATES]
    return " ".join([f"{noun}, {when(change)}, {where(change)}.", *doubts])


_STATES = {
    "provisional": "It is provisional: later checkpoints may confirm it or withdraw it.",
    "dismissed": "Whoever reviewed it dismissed it.",
    "acknowledged": "It was reviewed and acknowledged.",
}


def when(change: Mapping[str, Any]) -> str:
    """From which step to which, intervals included."""
    middle = f"step {change['step']}{within(change['step_interval'])}"
    if change["kind"] == "spike":
        return f"at {middle}"
    if change["kind"] == "slope":
        return f"turning at {middle}"
    start = f"from step {change['start_step']}{within(change['start_interval'])}"
    if change["end_step"] is None:
        return f"{start}, not over at the last checkpoint (half way at {middle})"
    return f"{start} to step {change['end_step']}{within(change['end_interval'])} (half way at {middle})"


def where(change: Mapping[str, Any]) -> str:
    """In which heads and tokens, or in which series where it is neither's."""
    heads = [f"L{layer}H{head}" for layer, head in change["heads"]]
    places = []
    if heads:
        more = f" and {len(heads) - _HEADS_NAMED} more" if len(heads) > _HEADS_NAMED else ""
        places.append(f"head{'s' * (len(heads) > 1)} {', '.join(heads[:_HEADS_NAMED])}{more}")
    if change["n_tokens"] is not None:
        group = change["measure"].removeprefix(_GROUP)
        named = f" ({group})" if group != change["measure"] else ""
        places.append(f"{_counted(change['n_tokens'], 'token')} of the probe text{named}")
    return f"in {' and in '.join(places)}" if places else f"in {change['measure']}"


def within(interval: Sequence[float | None] | None) -> str:
    """An interval of steps as ` [low, high]`, an open end as …; nothing without one."""
    if interval is None:
        return ""
    low, high = ("…" if end is None else f"{end:.0f}" for end in interval)
    return f" [{low}, {high}]"


def reasons(facts: RunFacts) -> list[str]:
    """What the verdict rests on, and what a reader should know before believing it."""
    return list(_reasons(facts))


def _reasons(facts: RunFacts) -> Iterator[str]:
    n_steps, run = len(facts.loss_steps), facts.run
    if n_steps:
        span = f"from step {facts.loss_steps[0]} to step {facts.loss_steps[-1]}"
        yield f"{_counted(n_steps, 'checkpoint')} {'has' if n_steps == 1 else 'have'} losses, {span}."
    if run["status"] not in _ENDED:
        yield f"The run is {run['status']}: later checkpoints may change the verdict."
    if n_steps < MIN_CHECKPOINTS:
        yield (
            f"A scan needs at least {MIN_CHECKPOINTS} checkpoints with losses; with fewer nothing is looked for, "
            "so that none found does not mean that nothing changed. Record the run more often."
        )
    else:
        yield from _scanned(facts)
    if not any(change["induction"] for change in facts.changes):
        yield from _highest_head(facts)
    spikes = sum(change["kind"] == "spike" for change in facts.changes)
    if spikes:
        yield f"{_counted(spikes, 'spike')} of one checkpoint {'is' if spikes == 1 else 'are'} no change of level."
    if facts.withdrawn:
        were = "was" if len(facts.withdrawn) == 1 else "were"
        yield f"{_counted(len(facts.withdrawn), 'change')} reported on the way did not last and {were} withdrawn."
    if facts.non_finite:
        yield f"{facts.non_finite:,} losses are NaN or infinite; they are skipped."
    if run["failure"]:
        yield f"The run failed: {run['failure']}"


def _scanned(facts: RunFacts) -> Iterator[str]:
    done = next((scan for scan in facts.scans if scan["state"] == "done"), None)
    if done is None:
        yield "No scan of this run is done; the server's monitors ask for one."
    elif done["step"] is not None and done["step"] < facts.loss_steps[-1]:
        yield f"The last scan saw the run up to step {done['step']}, not to its last checkpoint."
    if facts.scans and facts.scans[0]["state"] == "failed":
        error = str(facts.scans[0]["error"]).partition("\n")[0]
        yield f"The newest scan failed: {error}"
    if done is not None and not facts.changes:
        yield (
            "Mean loss, whole-model measures, every head score and single tokens were looked at; nothing moved "
            "quickly against the run's own pace beyond what its own noise gives."
        )


def _highest_head(facts: RunFacts) -> Iterator[str]:
    """How far the highest head is from an induction head."""
    course = facts.measures.get("natural_prefix_matching") or facts.measures.get("prefix_matching")
    if course is None or not course.of_heads:
        yield "Heads were not scored for prefix matching, without which no change is called induction."
        return
    head = course.highest_head()
    if head is None or course.chance is None:
        return
    last = float(np.nanmax(course.values[-1]))
    yield (
        f"{course.name.replace('_', ' ').capitalize()} of the highest head, L{head[0]}H{head[1]}, ends at "
        f"{last:.3f}, {last - course.chance:+.3f} against chance ({course.chance:.3f}); induction asks for a rise to "
        f"at least +{INDUCTION_RISE} and for a sign in behaviour."
    )


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
