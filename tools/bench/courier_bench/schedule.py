"""The order of the measurements: group by group, pair by pair, and what is done again."""

from .attached import Attached
from .cases import Way, by_setup
from .guest import Guest
from .progress import Progress
from .report import CaseResult
from .turns import Turns

DISTURBED = 0.04
REPEATS = 3
# Of all turns, so that a machine that is never quiet cannot make a run as long as it likes.
REPEATED = 0.5
PLANS = {Way.TURNS: Turns, Way.ATTACHED: Attached, Way.GUEST: Guest}


class Schedule:
    """All measurements of a bench. For every group and pair its plan, a class of PLANS, starts what it needs, and measures.

    A plan is made with the seconds for each variant, tells with `seconds(case)` and `PAIR_OVERHEAD_S` what it takes, and
    yields from `measure_pair` each case with a sample for each variant: figures by their keys, and more if it likes.
    """

    def __init__(self, variants, cases, pairs, runtime):
        self._variants = variants
        self._groups = by_setup(cases)
        self._plans = {setup: PLANS[setup.way](runtime) for setup, _ in self._groups}
        self._pairs = pairs
        self._measured = {}
        self.turns = 0
        self.repeated = 0
        self.disturbed = 0

    def measure(self, rig):
        """Measures everything; `results` has it, even if this fails half-way."""
        progress = Progress([(setup, cases, self._pairs, self._seconds(setup, cases)) for setup, cases in self._groups])
        watch = Watch(self, progress)
        names = [variant.name for variant in self._variants]
        for setup, cases in self._groups:
            for number in range(1, self._pairs + 1):
                order = self._variants if number % 2 else self._variants[::-1]
                for case, samples in self._plans[setup].measure_pair(rig, setup, cases, order, watch):
                    pair = tuple(samples[variant] for variant in self._variants)
                    self._measured.setdefault(case.name, []).append(pair)
                    progress.measured(case, number, names, pair)

    def seconds(self):
        """About how long all of it takes, if others leave the machine alone."""
        return sum(self._pairs * sum(self._seconds(setup, cases).values()) for setup, cases in self._groups)

    def results(self):
        """A CaseResult for every case of which there is a pair."""
        cases = [case for _, cases in self._groups for case in cases]
        return [CaseResult(case, self._measured[case.name]) for case in cases if case.name in self._measured]

    def _seconds(self, setup, cases):
        plan = self._plans[setup]
        return {case.name: plan.seconds(case) + plan.PAIR_OVERHEAD_S / len(cases) for case in cases}


class Watch:
    """Has done again what others have disturbed."""

    def __init__(self, schedule, progress):
        self._schedule = schedule
        self._progress = progress

    def undisturbed(self, case, turn):
        """The samples by name that `turn()` measures, after as many tries as it takes and is worth."""
        schedule = self._schedule
        schedule.turns += 1
        for left in reversed(range(REPEATS + 1)):
            taken = turn()
            others = max(sample["others"] for sample in taken.values())
            # The emulated machine's own work (its NIC is software) looks like that of others.
            if others <= DISTURBED or case.setup.fabric == "rdma":
                return taken
            if not left or schedule.repeated >= REPEATS + schedule.turns * REPEATED:
                break
            schedule.repeated += 1
        schedule.disturbed += 1
        self._progress.disturbed(case, others)
        return taken
