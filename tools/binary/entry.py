"""What the single-file `cllm` runs: the command line, or the process that compiles kernels for it.

That process is started as `python -m cllm_cli.kernels.worker`, and here the program is all the Python that there is.
"""

from __future__ import annotations

import sys

if sys.argv[1:3] == ["-m", "cllm_cli.kernels.worker"]:
    from cllm_cli.kernels.worker import main

    del sys.argv[1:3]
    main()
else:
    from cllm_cli.main import run

    run()
