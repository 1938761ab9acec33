"""Requests and replies between server and clients, and their form as Flower records.

The only codec: a file for each kind of message, and `updates` for the arrays that a round brings
back. Tensors travel as one flat array per parameter group, with the layout beside them.

    roll call   server -> node   (nothing)
                node -> server   which clients it hosts; per training client its statistics
    train       server -> node   meta-parameters, round, the node's clients of this round
                node -> server   their weighted sum, or the stack of single updates; per client
                                 num-examples and metrics; what was left out and why
    evaluate    server -> node   meta-parameters, split, clients, numbers of adaptation steps
                node -> server   per client metrics before and after adaptation

Readers raise `MessageError` with a reason; they never let a damaged record through.
"""
