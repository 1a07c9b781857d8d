"""Write a small distribution with one component that works: something to install, check, run and change."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from string import Template

from collapsebench import __version__
from collapsebench.contracts import HOOKS, Kind
from collapsebench.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEMPLATES = Path(__file__).with_name("templates")

_COMPONENTS = {
    "dataset": (
        "points on a noisy circle",
        'noise: float = Field(default=0.1, ge=0, description="standard deviation of the noise")',
    ),
    "encoder": ("one hidden layer", 'width: int = Field(default=32, ge=1, description="units of the hidden layer")'),
    "decoder": ("one hidden layer", 'width: int = Field(default=32, ge=1, description="units of the hidden layer")'),
    "objective": (
        "beta-VAE with free nats",
        'free_nats: float = Field(default=0.05, ge=0, description="rate that each latent has for free, nats")',
    ),
    "observable": (
        "largest posterior mean of each latent",
        'power: float = Field(default=1.0, gt=0, description="exponent of the absolute mean")',
    ),
    "metric": (
        "latents that are active at the lowest temperature",
        'active: float = Field(default=0.1, gt=0, lt=1, description="signal fraction above which a latent counts")',
    ),
}
_OBSERVABLE_USAGE = 'A metric asks for it with `requires = ("$name",)` and finds it in `measurement.tables["$name"]`.'
_USAGE = "`$name.toml` is a suite that uses it:\n\n```bash\ncollapsebench run $name.toml\n```"


def write_plugin(kind: Kind, name: str, folder: Path) -> list[Path]:
    """Write the distribution of a new component into a new folder; return the files.

    name: the component's id, after which distribution and package are named.
    """
    _refuse(kind, name, folder)
    package, words = f"collapsebench_{name.replace('-', '_')}", name.split("-")
    stem = "".join(word.capitalize() for word in words)
    summary, parameter = _COMPONENTS[kind]
    values = {
        **_suite_parts(kind, name),
        "kind": kind,
        "name": name,
        "distribution": f"collapsebench-{name}",
        "package": package,
        "class_name": f"{stem}{kind.capitalize()}",
        "parameters": f"{stem}Parameters",
        "parameter": parameter,
        "summary": summary,
        "hook": HOOKS[kind],
        "laws": f"{kind.capitalize()}Laws",
        "version": __version__,
    }
    values["usage"] = Template(_OBSERVABLE_USAGE if kind == "observable" else _USAGE).substitute(values)
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"src/{package}/__init__.py": "init.py",
        f"src/{package}/parameters.py": "parameters.py",
        f"src/{package}/{kind}.py": f"{kind}.py",
        f"tests/test_{name.replace('-', '_')}.py": "test.py",
    }
    if kind != "observable":
        files[f"{name}.toml"] = "suite.toml"
    for target, template in files.items():
        text = (_TEMPLATES / f"{template}.template").read_text(encoding="utf-8")
        path = folder / target
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(values), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); name another folder.") from error
    return [folder / target for target in files]


def _suite_parts(kind: Kind, name: str) -> dict[str, str]:
    """Return what the new plugin's suite uses: the new component, and others for the rest."""
    parts: dict[str, str] = tomllib.loads((_TEMPLATES / "suite_parts.toml.template").read_text(encoding="utf-8"))
    beside = parts.pop("beside_metric")
    choice = {"dataset": f'use = "{name}"', "metric": f'["{beside}", "{name}"]'}.get(kind, name)
    return {**parts, "metrics" if kind == "metric" else kind: choice}


def _refuse(kind: Kind, name: str, folder: Path) -> None:
    """Refuse a name that cannot be an id and a package, and a folder that exists already."""
    if kind not in _COMPONENTS:
        raise UserError(f"kind: found '{kind}', expected one of {', '.join(_COMPONENTS)}.")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"name: found '{name}', expected lower-case letters and digits in words joined by single hyphens, a letter "
            "first, as in two-moons; choose such a name."
        )
    package = f"collapsebench_{name.replace('-', '_')}"
    if importlib.util.find_spec(package) is not None:
        raise UserError(f"name: found '{name}', whose package {package} is installed already; choose another name.")
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: exists already, expected a folder to be made; name another with --folder.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{folder}: {above} is a file, expected a folder; name another with --folder.")
