"""A function of a site that kills its process, as often as a file says, while it is asked."""

import os
import signal
from pathlib import Path
from typing import Any

DEATHS = "FEDMAML_TEST_DEATHS"


def load() -> Any:
    """Return examples, unless the process is to die."""
    import pandas as pd

    file = Path(os.environ[DEATHS])
    if left := int(file.read_text()):
        file.write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return pd.DataFrame({"age": range(20), "ill": [i // 3 % 2 for i in range(20)]})
