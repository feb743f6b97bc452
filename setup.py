"""Copies the page's files into the wheel. Everything else about the package is in pyproject.toml.

The web UI reads `javascript/`, `localizations/` and `style.css` at the top of an extension's folder, so they stay
there; a wheel takes only what is in a package, so it gets copies in `lora_ext/page/`. An editable install uses the
originals.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PAGE = (
    "style.css",
    "javascript/lora_ext/**/*.mjs",
    "localizations/*.json",
    "docs/guide/troubleshooting.md",
    "docs/guide/images/regularisation.png",
)


class BuildWithPage(build_py):
    """`build_py` that also copies the page's files to `lora_ext/page/`."""

    def _page_files(self) -> dict[str, str]:
        """Copy in the build folder → original, relative to the project."""
        if self.editable_mode:
            return {}
        files = [path.relative_to(HERE).as_posix() for pattern in PAGE for path in sorted(HERE.glob(pattern))]
        return {str(Path(self.build_lib, "lora_ext", "page", name)): name for name in files}

    def run(self) -> None:
        """Copies the modules, then the page's files."""
        super().run()
        for target, source in self._page_files().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What `run` writes."""
        return [*super().get_outputs(include_bytecode), *self._page_files()]


setup(cmdclass={"build_py": BuildWithPage})
