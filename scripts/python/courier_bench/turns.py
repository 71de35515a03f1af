"""Both variants in turn: two fresh servers, and on these every case by turns of a second."""

from .stats import median_of

SLICE_S = 1
BARE = "bare initiator"
# What a slice costs besides its load: attaching, detaching; starting and ending the bare initiator.
SLICE_OVERHEAD_S = 0.2
BARE_OVERHEAD_S = 1.5


class Turns:
    """Measures the cases of a group in the order stock, courier, courier, stock, ..."""

    # Starting and stopping the servers.
    PAIR_OVERHEAD_S = 6.0

    def __init__(self, runtime):
        self._turns = max(1, runtime // SLICE_S)

    def seconds(self, case):
        """How long a pair of this case takes."""
        bare = SLICE_S + BARE_OVERHEAD_S if case.bare else 0.0
        return self._turns * (2 * (SLICE_S + SLICE_OVERHEAD_S) + bare)

    def measure_pair(self, rig, setup, cases, order, watch):
        """Yields every case with a sample for each variant."""
        servers = {variant: rig.start(variant, setup) for variant in order}
        for server in servers.values():
            rig.measure(server, cases[0], SLICE_S)  # warms up: the first touch of memory is slow
        for case in cases:
            yield case, self._measure_case(rig, servers, order, case, watch)
        rig.stop_servers()

    def _measure_case(self, rig, servers, order, case, watch):
        # In the middle of every turn, so that it is as near to one variant as to the other.
        sequence = [order[0], BARE, order[1]] if case.bare else list(order)
        slices = {side: [] for side in sequence}
        for turn in range(self._turns):
            sides = sequence[::-1] if turn % 2 else sequence
            taken = watch.undisturbed(case, lambda sides=sides: {
                side: rig.measure_bare(case, SLICE_S) if side is BARE else rig.measure(servers[side], case, SLICE_S)
                for side in sides})
            for side, sample in taken.items():
                slices[side].append(sample)
        samples = {side: median_of(taken) for side, taken in slices.items()}
        if case.bare:
            bare = samples.pop(BARE)["latency_us"]
            for sample in samples.values():
                sample |= {"bare_latency_us": bare, "added_us": sample["latency_us"] - bare}
        return samples
