"""python -m emobench.serving.scripted: named by scripts that emobench 0.1 put into a queue.

Goes with 0.2; the module is `emobench.scripted`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("emobench.scripted", run_name="__main__", alter_sys=True)
