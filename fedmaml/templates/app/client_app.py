"""The side of a site: it splits its examples anew in every round and answers the server."""

import fedmaml as fm

app = fm.client_app()
