"""Strategies next to each other: who really wins, on equal terms, and what may be said of it.

comparing     settings -> runs to do, and the comparison that complete runs make
tuning        settings that do well on validation clients, for every strategy alike
terms         who trains how long, and by which round everybody is evaluated
reuse         runs that are complete already need not be repeated
conclusions   complete run directories -> what they say, whoever made them
verdicts      better, worse or not distinguishable, for every two strategies
figures       further metrics, figures over groups, other families of clients
contrasts     paired differences, their intervals and p-values
findings      what training took and tuning found, as data
tables        a comparison on the terminal, as Markdown, CSV, LaTeX and JSON
cells         its tables as text
"""
