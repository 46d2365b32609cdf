import os
import subprocess
import sys


def test_nobody_looks_for_garbage_among_what_is_there_when_a_process_is_ready() -> None:
    script = (
        "import gc\n"
        "from segmentd.serve.child import Duty\n"
        "Duty.report_ready()\n"
        "print(gc.get_freeze_count() > 0, len(gc.get_objects()) < gc.get_freeze_count())\n"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert said.stdout.splitlines() == ["ready", "True True"]


def test_a_process_that_is_ready_when_its_supervisor_has_gone_says_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = "from segmentd.serve.child import Duty; Duty.report_ready()"

    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, check=False
    )

    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
