"""Who runs at a provider: slots by turn and worker generation, some of them reserved. Pure."""

from __future__ import annotations

from loopforge.runtime.lanes import Item


class Slots:
    """Who runs. A slot in use is an entry of these dicts and nothing else: there is no number that could drift.

    `reserve` slots are for interactive turns alone. Interactive turns fill those first: as many common slots are in
    use as other turns run, plus the interactive turns beyond the reserve.
    """

    def __init__(self, total: int, reserve: int) -> None:
        self.resize(total, reserve)
        self._generations: dict[str, int] = {}  # by turn
        self._turns: dict[int, dict[str, Item]] = {}  # by generation
        self._interactive: set[str] = set()

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._generations

    def resize(self, total: int, reserve: int) -> None:
        self.total = total
        self.reserve = max(0, min(reserve, total - 1))

    @property
    def in_use(self) -> int:
        return len(self._generations)

    @property
    def free(self) -> int:
        """Below 0 while more are in use than there are since the last resize."""
        return self.total - len(self._generations)

    @property
    def reserved_free(self) -> int:
        """Reserved slots that an interactive turn can have now."""
        return max(0, min(self.reserve - len(self._interactive), self.free))

    @property
    def common_free(self) -> int:
        """Slots that a turn of any lane can have now."""
        return self.free - max(0, self.reserve - len(self._interactive))

    def take(self, item: Item, generation: int) -> None:
        self._generations[item.id] = generation
        self._turns.setdefault(generation, {})[item.id] = item
        if item.lane == "interactive":
            self._interactive.add(item.id)

    def release(self, generation: int, turn_id: str) -> bool:
        if self._generations.get(turn_id) != generation:
            return False
        turns = self._turns[generation]
        del turns[turn_id]
        if not turns:
            del self._turns[generation]
        del self._generations[turn_id]
        self._interactive.discard(turn_id)
        return True

    def release_generation(self, generation: int) -> list[Item]:
        turns = self._turns.pop(generation, {})
        for turn_id in turns:
            del self._generations[turn_id]
            self._interactive.discard(turn_id)
        return list(turns.values())

    def by_generation(self) -> dict[int, tuple[str, ...]]:
        return {generation: tuple(turns) for generation, turns in self._turns.items()}
