"""A process with everything imported that runs each study in a child, so that killing one costs no start-up.

Reads one JSON object a line, {"config": ..., "out": ...}, with a "tuned" model for a comparison; for each prints the
child's process id, and its exit status when it has ended.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

# What a study imports on its way is imported once, here, and not in each child.
import bm25s  # noqa: F401
import Stemmer  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

from relscope.study import StudyConfig, compare_models, run_study


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        # No tensor is computed before the fork, so no thread pool is lost by it.
        child = os.fork()
        if child == 0:
            try:
                config = StudyConfig(**request["config"])
                if "tuned" in request:
                    compare_models(config, request["tuned"], request["out"])
                else:
                    run_study(config, request["out"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
