"""Writes JSON schemas of the files in conf/ for editors: `python scripts/schema.py`, or `make schema`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout, whatever else is installed

from runner.errors import Parser, one_line_errors
from runner.json_schema import schemas
from trainer.project import PROJECT

FOLDER = "schemas"
SETTINGS = "vscode.json"


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="Writes JSON schemas of the files in conf/, for editors.")
    parser.add_argument("--folder", type=Path, default=PROJECT.root / FOLDER, help="where they are written")
    args = parser.parse_args(arguments)
    with one_line_errors():
        files = {}
        for name, schema in schemas(PROJECT):
            path = args.folder / Path(name).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(schema, indent=1), encoding="utf-8")
            files[f"{FOLDER}/{Path(name).with_suffix('.json').as_posix()}"] = f"conf/{name}"
        (args.folder / SETTINGS).write_text(json.dumps({"yaml.schemas": files}, indent=1), encoding="utf-8")
    print(f"{args.folder}: {len(files)} schemas, and the settings of VS Code that name them in {SETTINGS}")


if __name__ == "__main__":
    main()
