"""What the scripts of the page work out, run by node: against Python where both know the answer."""

import ast
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from factorlm.factors.store import SHELF, read_manifest
from factorlm.inference import Model
from factorlm.inference.explanation import FULL, VISIBLE, Explanation
from factorlm.models import CausalLM

from .conftest import Serve

PAGE = Path(__file__).parents[2] / "src/factorlm/serving/page"
TESTS = Path(__file__).with_name("page_scripts.mjs")
NODE = shutil.which("node")
PROMPT = (
    "the \"good\" one's\\ end: {x}\n\t'good' $HOME `ls` \u2028 é€ \U0001f600 </script>"  # all that quoting can break on
)

pytestmark = pytest.mark.skipif(NODE is None, reason="the scripts are run by node, which is not installed")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node takes the page's scripts for modules."""
    folder = tmp_path_factory.mktemp("scripts")
    shutil.copytree(PAGE, folder / "page")
    shutil.copy(TESTS, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def worked_out(scripts: Path, module: str, expression: str, value: Any) -> Any:
    """What an expression gives; `page` is the module and `value` the value."""
    assert NODE is not None
    program = (
        f'import * as page from "./page/{module}"; import {{ readFileSync }} from "node:fs";'
        f'const value = JSON.parse(readFileSync(0)); process.stdout.write(JSON.stringify({expression}));'
    )  # fmt: skip
    command, given = [NODE, "--input-type=module", "-e", program], json.dumps(value).encode()
    ran = subprocess.run(command, cwd=scripts, input=given, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def test_scripts_do_what_they_say(scripts: Path) -> None:
    assert NODE is not None
    ran = subprocess.run([NODE, "--test", TESTS.name], cwd=scripts, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_strengths_are_turned_into_exponents_as_in_python(scripts: Path) -> None:
    strengths = read_manifest(SHELF / "positive").strengths
    assert strengths is not None
    asked = [-1.5, -0.93, -0.4, -0.01, 0.0, 0.02, 0.05, 0.3, 1.2]
    told = worked_out(
        scripts, "numbers.js", "value[1].map((s) => page.exponentOf(value[0], s))", [strengths.points, asked]
    )
    assert told == pytest.approx([strengths.exponent(s) for s in asked], abs=1e-12)
    back = worked_out(
        scripts, "numbers.js", "value[1].map((e) => page.strengthOf(value[0], e))", [strengths.points, told]
    )
    assert back == pytest.approx([strengths.strength(e) for e in told], abs=1e-12)


def test_tokens_have_the_colour_that_explanations_give_them(scripts: Path) -> None:
    draw = random.Random(0)
    names = ("a", "b", "c")
    pushes = [tuple(draw.choice((0.0, 1.0, -1.0)) * draw.expovariate(2) for _ in names) for _ in range(200)]
    zeros = (0.0,) * len(pushes)
    explanation = Explanation("", ("x",) * len(pushes), names, (1.0,) * 3, zeros, zeros, tuple(pushes), zeros)
    told = worked_out(
        scripts, "colours.js", "value[0].map((p) => page.strongest(p, value[1], value[2]))",
        [[dict(zip(names, p, strict=True)) for p in pushes], VISIBLE, FULL],
    )  # fmt: skip
    for index, found in enumerate(told):
        k = explanation.strongest(index)
        assert (found and found["name"]) == (None if k is None else names[k])
        if k is not None:
            assert found["isAgainst"] == (pushes[index][k] < 0)
    assert sum(found is None for found in told) > 10  # both kinds were drawn
    assert sum(found is not None for found in told) > 10


def request_of(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": PROMPT, "max_tokens": 4, "seed": 3, "n": 2, "temperature": 0.5, **more}


def test_the_openai_program_writes_what_the_request_would(scripts: Path, serve: Serve) -> None:
    pytest.importorskip("openai")
    served = serve()
    request = request_of(factors={"sensory": {"exponent": 1}}, sampler={"kind": "local", "top_k": 5})
    program = worked_out(scripts, "exporting.js", "page.asOpenai(...value)", [request, served.url])
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    choices = served.client.post("/v1/completions", json=request).json()["choices"]
    assert ran.stdout == "".join(choice["text"] + "\n" for choice in choices)


def test_the_openai_program_for_chat_says_all_turns(scripts: Path) -> None:
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": "good"}]
    request = {"model": "tiny", "messages": messages, "max_tokens": 4, "guides": {"topic:a": -1}}
    program = worked_out(scripts, "exporting.js", "page.asOpenai(...value)", [request, "http://host/base"])
    (call,) = [n for n in ast.walk(ast.parse(program)) if isinstance(n, ast.Call) and _name(n) == "create"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert given == {
        "model": "tiny", "messages": messages, "max_tokens": 4, "extra_body": {"guides": {"topic:a": -1}}
    }  # fmt: skip


def test_the_shell_command_sends_the_request(scripts: Path, serve: Serve) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the command is run by curl, which is not installed")
    served = serve()
    command = worked_out(scripts, "exporting.js", "page.asCurl(...value)", [request_of(), served.url])
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = served.client.post("/v1/completions", json=request_of()).json()["choices"]
    assert json.loads(ran.stdout)["choices"] == told


@pytest.mark.parametrize(
    "more",
    [
        {"factors": {"sensory": {"exponent": 1}}},
        {
            "sampler": {"kind": "smc", "particles": 3, "ess": 0.2, "resampling": "systematic", "limit": "cut"},
            "top_p": 0.9,
        },
        {"sampler": {"kind": "local", "top_k": 3, "min_p": 0.01}},
        {"choice": ["good", "bad"], "stop": ["oo"], "temperature": 0.5},
        {"regex": "[a-z ]+"},
    ],
)
def test_the_factorlm_program_runs(scripts: Path, tiny_folder: Path, more: dict[str, Any]) -> None:
    request = {**request_of(**more), "model": str(tiny_folder)}
    program = worked_out(scripts, "exporting.js", "page.asFactorlm(value)", request)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) >= request["n"]


@pytest.mark.parametrize(
    "more",
    [
        {"guides": {"polite": 10}, "factors": {"positive": 0.3, "clean": {"exponent": 1}}},
        {"memory": {"news": 0.3}},
        {"memory": {"news": 1}, "memory_mode": "multiply"},
        {"prior": {"name": "genres", "mode": "bayes"}},
    ],
)
def test_programs_that_need_other_folders_are_python(scripts: Path, more: dict[str, Any]) -> None:
    program = worked_out(scripts, "exporting.js", "page.asFactorlm(value)", request_of(**more))
    tree = ast.parse(program)
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert PROMPT in literals
    used = {f"{node.value.id}.{node.attr}" for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}  # fmt: skip
    import factorlm

    assert {name for name in used if name.startswith("fl.")} <= {f"fl.{name}" for name in factorlm.__all__}


def test_presets_are_requests_once_what_is_ours_is_taken_out(scripts: Path, serve: Serve, chat_lm: CausalLM) -> None:
    moves = 'Object.assign(page.faderOf(s, "factors", "sensory"), { value: 1, unit: "exponent" }); s.sampler.top_k = 4;'
    expression = f"(() => {{ const s = page.emptySetting(); {moves} return page.presetOf(s, value, 'tiny'); }})()"
    preset = worked_out(scripts, "setting.js", expression, {"max_tokens": 3, "seed": 1, "n": 1})
    assert preset.pop("factorlm") == "preset/1"
    served = serve(Model(chat_lm, chat_lm))
    answer = served.client.post("/v1/completions", json={**preset, "prompt": "good"})
    assert answer.status_code == 200, answer.text


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""
