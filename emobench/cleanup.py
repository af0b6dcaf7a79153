"""python -m emobench.cleanup: named by clean-up scripts that emobench 0.1 put into a queue.

Goes with 0.2; the module is `emobench.runs.cleanup`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("emobench.runs.cleanup", run_name="__main__", alter_sys=True)
