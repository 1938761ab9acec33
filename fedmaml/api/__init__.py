"""What Python calls and the command line have in common: names, runs, comparisons, results.

    naming      scenario or strategy as name, place, class or value -> settings
    running     fm.run, fm.load and their result
    comparing   fm.compare and its result; `fedmaml compare`
    datasets    fm.from_clients: arrays and frames -> a scenario
    frames      rows as pandas frames

Public is what `fedmaml.__all__` reaches.
"""
