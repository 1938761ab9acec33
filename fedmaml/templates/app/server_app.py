"""The side of the server: it trains, evaluates the sites held out and writes a run folder."""

import fedmaml as fm

app = fm.server_app()
