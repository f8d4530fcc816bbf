"""What is done to whom, and when: follows from the seed and the length of the run, and is known before it begins."""

import random
from dataclasses import dataclass

# Seconds between two actions. The group waits for a killed member until its session ends, so some of them find a
# rebalance under way, and some find work.
GAP = (2.0, 8.0)
# Seconds behind each deck, in which the workers catch up and the next storm finds records in work again.
CALM = 15.0
# Nothing happens before the first workers share the partitions, nor so late that it could not be undone.
CALM_START, CALM_END = 8.0, 12.0

WORKERS = ["worker-1", "worker-2", "worker-3"]
GUEST, BROKER, ARCHIVES = "worker-4", "broker", "archives"

# Each of these happens once before any of them happens again.
DECK = [
    "kill",
    "kill",
    "kill twice",
    "term",
    "term",
    "term twice",
    "freeze shortly",
    "freeze for long",
    "join",
    "archives",
    "broker stop",
    "broker kill",
]


@dataclass(frozen=True)
class Action:
    at: float  # seconds from the start of the load
    target: str
    verb: str  # kill, term, term twice, freeze, join, stop, or how the archives fail
    pause: float  # seconds until it is undone


def actions(seed, seconds):
    """Every action of a run, by time."""
    dice = random.Random(f"{seed}/actions")
    made = []
    free = dict.fromkeys([*WORKERS, GUEST, BROKER, ARCHIVES], 0.0)  # from when on something may be done to it

    def add(at, target, verb, pause, rest):
        made.append(Action(at, target, verb, pause))
        free[target] = at + pause + rest

    def act(card, at):
        """Whether the one that it is for is well at that time."""
        able = [name for name in WORKERS if free[name] <= at]
        target = {"join": GUEST, "archives": ARCHIVES, "broker stop": BROKER, "broker kill": BROKER}.get(card)
        if (free[target] > at) if target else not able:
            return False
        match card:
            case "kill":
                add(at, dice.choice(able), "kill", dice.uniform(0, 3), rest=2)
            case "kill twice":
                target = dice.choice(able)
                add(at, target, "kill", dice.uniform(0, 1), rest=0)
                # Anywhere between its first line and its first results.
                add(free[target] + dice.uniform(0.05, 4), target, "kill", dice.uniform(0, 2), rest=2)
            case "term" | "term twice":
                add(at, dice.choice(able), card, dice.uniform(0, 3), rest=4)
            case "freeze shortly":
                add(at, dice.choice(able), "freeze", dice.uniform(0.5, 4), rest=2)
            case "freeze for long":
                add(at, dice.choice(able), "freeze", dice.uniform(7.5, 13), rest=4)
            case "join":
                add(at, GUEST, "join", dice.uniform(2, 12), rest=6)
            case "archives":
                # The next one must not meet a record that still suffers from this one.
                add(at, ARCHIVES, dice.choice(["refuses", "silent", "busy"]), dice.uniform(2, 7), rest=20)
            case "broker stop" | "broker kill":
                add(at, BROKER, card.split()[1], dice.uniform(0, 6), rest=20)
        return True

    at, deck = CALM_START, []
    while at < seconds - CALM_END:
        if not deck:
            at += CALM if made else 0
            deck = dice.sample(DECK, len(DECK))
        card = next((card for card in deck if act(card, at)), None)
        if card:
            deck.remove(card)
        at += dice.uniform(*GAP)
    return sorted((action for action in made if action.at < seconds - CALM_END + 4), key=lambda action: action.at)
