"""Two processes and a ragged set give what one process gives."""

import json

import numpy as np
import pytest

from hf_mmintent.metrics import IntentMetric, Predictions, intent_scores
from tests.processes import run_in_two_processes

# The last lines avoid aborts of gloo at interpreter exit.
SCRIPT = """
import json, os, sys
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from hf_mmintent.metrics import IntentMetric

folder, rows = sys.argv[1], json.load(open(os.path.join(sys.argv[1], "rows.json")))
accelerator = Accelerator()
assert accelerator.num_processes == 2, accelerator.num_processes
data = [{key: torch.tensor(value) for key, value in row.items()} for row in rows]
loader = accelerator.prepare(DataLoader(data, batch_size=4))
gathered, own = {"index": [], "label": [], "prediction": []}, []
for batch in loader:
    for key, values in accelerator.gather_for_metrics(batch).items():
        gathered[key] += values.tolist()

# the other way: every process adds its own share, `evaluate` joins the files
metric = IntentMetric(num_process=2, process_id=accelerator.process_index, cache_dir=os.path.join(folder, "cache"))
share = rows[accelerator.process_index :: 2]
metric.add_batch(references=[r["label"] for r in share], predictions=[r["prediction"] for r in share])
joined = metric.compute()
if accelerator.is_main_process:
    with open(os.path.join(folder, "out.json"), "w") as file:
        json.dump({"gathered": gathered, "joined": joined}, file)
else:
    assert joined is None
accelerator.wait_for_everyone()
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path, root):
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 5, 37), generator.integers(0, 5, 37)
    rows = [{"index": i, "label": int(y), "prediction": int(p)} for i, (y, p) in enumerate(zip(labels, predictions))]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "script.py").write_text(SCRIPT)
    run_in_two_processes(root, tmp_path / "script.py", tmp_path)
    out = json.loads((tmp_path / "out.json").read_text())

    expected = intent_scores(labels, predictions)
    assert expected["n"] == 37
    gathered = out["gathered"]
    # Predictions refuses an id that occurs twice: the padding of the last batch is gone
    saved = Predictions(gathered["index"], gathered["label"], gathered["prediction"], seed=0)
    assert sorted(map(int, saved.ids)) == list(range(37))
    assert intent_scores(saved.labels, saved.predictions) == pytest.approx(expected)
    assert IntentMetric().compute(references=labels, predictions=predictions) == expected
    assert out["joined"] == pytest.approx(expected)
