"""Execute the notebooks in place, so that their plots can be read without running anything.

python notebooks/render.py                # all of them, on the lake of the settings
python notebooks/render.py 03_variables.ipynb
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from rich.console import Console

FOLDER = Path(__file__).resolve().parent


def notebooks() -> list[Path]:
    """The notebooks in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, seconds: int = 300, kernel: AsyncKernelManager | None = None) -> NotebookNode:
    """The notebook with outputs; the environment chooses the lake. Raises CellExecutionError for a cell that fails.

    kernel: one that stays, with what it has imported, its JVM, and no names of earlier notebooks; default: a new one.
    """
    notebook = nbformat.read(path, as_version=4)
    if kernel is not None:
        notebook.cells.insert(0, new_code_cell("%reset -f"))
    NotebookClient(notebook, timeout=seconds, km=kernel, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return notebook


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Without what differs from run to run or from machine to machine: counts, times, the log of the JVM."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.name != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    return notebook


if __name__ == "__main__":
    for file in [FOLDER / name for name in sys.argv[1:]] or notebooks():
        nbformat.write(cleaned(execute(file)), file)
        Console().print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")
