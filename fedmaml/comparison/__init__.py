"""Strategies side by side: which is better, with an equal budget, and how certain that is.

comparing     settings -> runs, and complete runs -> comparison
tuning        settings that do well on validation clients, for every strategy alike
budget        how long each strategy trains, and which round is evaluated
reuse         complete runs are not repeated
conclusions   complete run directories -> conclusions, whichever command made them
verdicts      better, worse or not distinguishable, for every two strategies
figures       further metrics, figures over groups, other families of clients
contrasts     paired differences, their intervals and p-values
findings      cost of training and results of tuning, as data
tables        a comparison on the terminal, as Markdown, CSV, LaTeX and JSON
cells         its tables as text
"""
