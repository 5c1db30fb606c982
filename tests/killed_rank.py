"""Runs the command line as ``python -m neroli`` does; the second process is killed at work."""

import os
import signal

from neroli import classifier
from neroli.cli import main

if os.environ["RANK"] == "1":
    seen = 0
    run = classifier.Classifier.__call__

    def killed(self, images, *arguments):  # type: ignore[no-untyped-def]
        global seen
        seen += len(images)
        if seen > 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, images, *arguments)

    classifier.Classifier.__call__ = killed  # type: ignore[method-assign]

main()
