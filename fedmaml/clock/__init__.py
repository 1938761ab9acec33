"""SIMULATED wall-clock time: how long a finished run would take on given links and devices.

    client i in a round    T_i = r t + 8 down / (B_down b_i) + flops / (S s_i) + 8 up / (B_up b_i)
    a round                max of T_i over its cohort: the server waits for the slowest
    b_i, s_i               exp(spread * z), z standard normal: drawn once for each client and kept,
                           so that a slow phone stays slow, in every run and under every strategy

Bytes and operations are the run's own (``cost`` in rounds.jsonl), means over the clients of a
round; B, S, t and r come from a profile. Cohorts are those of the run. What is not in it: the
server's time, evaluations, Flower's envelopes (about 2 kB a message), HTTP and TLS framing, links
that change, and devices that go away.

    profile = profiles.load_profile("4g-phone")
    row = rows.clock(RunDirectory(path), profile, target=0.8)    # data in, data out
    timeline.simulate(RunDirectory(path), profile).finished      # seconds at the end of each round
"""
