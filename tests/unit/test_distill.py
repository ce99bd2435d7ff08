"""Distillation: a student learns a teacher's spectra, and says where it must not be trusted."""

import json

import numpy as np
import pytest
import torch

from scalespec.config import RunConfig, TrainTable, load_config
from scalespec.engines.local import LocalContext
from scalespec.errors import ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.models.distill import (
    TeacherSpectra,
    central_gradients,
    distrusted,
    draw_labels,
    measure_trust,
)
from scalespec.models.payne import Payne
from scalespec.models.transformer import SpectrumTransformer
from scalespec.plan import Training
from scalespec.stages import distilling, folders
from scalespec.stages.distilling import TRUST_NAME, VALIDATION_SPECTRA, distill_loop
from scalespec.stages.train import train
from scalespec.store import paths
from scalespec.store.model import load_model, model_record, save_model

PIXELS = 80
LABELS = ("teff", "logg", "mg_fe")


def spec_of(name="teacher"):
    grid = 10 ** (3.7 + 1e-4 * np.arange(PIXELS))
    return EmulatorSpec(name, LABELS, [4000.0, 1.0, -0.5], [6000.0, 5.0, 0.5], grid, 1800.0)


def transformer():
    model = SpectrumTransformer(spec_of(), width=16, layers=2, heads=4, waves=16, seed=2)
    with torch.no_grad():
        model.flux.weight.copy_(0.1 * torch.randn(1, 16, generator=torch.manual_seed(1)))
    return model


class Ramp(Payne):
    """A Payne that is off by what a test says, where it says."""

    def __init__(self, wrong):
        super().__init__(spec_of(), hidden=(8,), seed=1)
        self.wrong = wrong

    def forward_scaled(self, x):
        return super().forward_scaled(x) + self.wrong(x)[:, None]


def test_every_epoch_has_spectra_of_its_own_and_ranks_share_them():
    lessons = TeacherSpectra(transformer(), n=40, seed=3)
    first, second = (np.concatenate([b[0] for b in lessons.chunks(e, 0, 1)]) for e in (0, 1))
    again = np.concatenate([b[0] for b in lessons.chunks(0, 0, 1)])
    np.testing.assert_array_equal(first, again)
    assert not np.intersect1d(first[:, 0], second[:, 0]).size
    ranks = [np.concatenate([b[0] for b in lessons.chunks(0, r, 3)]) for r in range(3)]
    assert [len(rows) for rows in ranks] == [13, 13, 13]
    assert np.isin(np.concatenate(ranks)[:, 0], first[:, 0]).all()
    held = lessons.held(40)[0]
    assert not np.intersect1d(held[:, 0], first[:, 0]).size


def test_lessons_are_the_teachers_spectra():
    teacher = transformer()
    labels, flux, ivar, shift = next(TeacherSpectra(teacher, n=9, seed=3).chunks(0, 0, 1))
    with torch.no_grad():
        # Labels in float32 are known to 0.0005 K.
        np.testing.assert_allclose(flux, teacher(torch.from_numpy(labels)), atol=1e-4)
    assert np.isinf(ivar).all()
    assert not shift.any()


def test_central_gradients_span_their_step():
    step = torch.tensor([0.1, 0.2, 0.05])
    model, x = transformer(), draw_labels(3, 4, (0,), margin=0.2)
    found = central_gradients(model, x, step)
    with torch.no_grad():
        for k in range(3):
            move = step * torch.nn.functional.one_hot(torch.tensor(k), 3)
            up, down = model.forward_scaled(x + move), model.forward_scaled(x - move)
            torch.testing.assert_close(
                found[:, k], (up - down) / (2 * step[k]), rtol=1e-4, atol=1e-4
            )


def test_trust_tells_regions_and_labels_apart():
    teacher = Ramp(lambda x: 0 * x[:, 0])
    # In the highest quarter of Teff the student's flux has a slope by Teff that is not there.
    student = Ramp(lambda x: 0.4 * (x[:, 0] - 0.25).clamp(min=0))
    trust = measure_trust(teacher, student, n=200)
    flux = np.array(trust["flux_rms_by_region"])
    assert flux[0, :3] == pytest.approx(0.0, abs=2e-3)  # but for the kink
    assert flux[0, 3] == pytest.approx(0.4 * 0.25 / np.sqrt(3), rel=0.25)
    assert flux[1:].max() < 0.6 * flux[0, 3]  # other labels do not tell where it is wrong
    error = np.array(trust["gradient_error_by_region"])
    assert error[0, 3, 0] > 3 * error[0, :2, 0].max()
    assert error[:, :, 1:].max() < 1e-3  # by no other label is it wrong
    assert trust["edges"][0] == [4000.0, 4500.0, 5000.0, 5500.0, 6000.0]
    assert len(trust["flux_rms_by_pixel"]) == PIXELS
    assert any(line.startswith("teff 5500 to 6000: flux 0.0") for line in distrusted(trust))
    assert not any(line.startswith("teff 4000 to 4500") for line in distrusted(trust))


def test_a_student_of_another_grid_is_not_compared():
    other = Payne(spec_of().slice(0, 70), hidden=(8,))
    with pytest.raises(ValueError, match="differ in wavelength"):
        measure_trust(transformer(), other)


def table_of(url, **changes):
    options = {
        "model": "payne",
        "labels": LABELS,
        "teacher": url,
        "teacher_spectra": 300,
        "gradient_references": 10,
        "hidden": 40,
        "rounds": (0, 20, 40),
    }
    return TrainTable(**(options | changes))


def test_a_transformer_is_distilled_into_a_payne_with_its_report(tmp_path):
    url = str(tmp_path / "student")
    save_model(str(tmp_path / "teacher"), transformer())
    table = table_of(str(tmp_path / "teacher"))
    distill_loop(LocalContext(), table, url, seed=4)
    student, teacher = load_model(url), load_model(table.teacher)
    assert isinstance(student, Payne)
    trust = json.loads((tmp_path / "student" / TRUST_NAME).read_text())
    x = draw_labels(3, 100, (99,))
    with torch.no_grad():
        flux = teacher.forward_scaled(x)
        rms = float((student.forward_scaled(x) - flux).square().mean().sqrt())
    assert rms < 0.03 * float(flux.std(dim=0).square().mean().sqrt())
    assert trust["flux_rms"] == pytest.approx(rms, rel=0.5)  # other draws, a margin inside
    assert max(trust["gradient_error"]) < 0.1
    metadata = model_record(url)["metadata"]
    assert metadata["distrusted"] == trust["distrusted"]
    card = metadata["card"]
    assert (card["n_training"], card["n_validation"]) == (300, VALIDATION_SPECTRA)
    assert card["domain"]["box"]["teff"] == [4000.0, 6000.0]
    assert [row["added"] for row in card["errors_by_snr"]] == [True] * 5  # teachers make no noise


def test_a_card_names_some_places_of_distrust_and_counts_the_others(tmp_path, monkeypatch):
    places = [f"teff {k}: flux 0.1" for k in range(7)]
    monkeypatch.setattr(distilling, "distrusted", lambda _: places)
    save_model(str(tmp_path / "teacher"), transformer())
    table = table_of(str(tmp_path / "teacher"), rounds=(0,))
    distill_loop(LocalContext(), table, str(tmp_path / "student"), seed=4)
    said = model_record(str(tmp_path / "student"))["metadata"]["card"]["known_faults"][-6:]
    assert said == [
        *(f"far from its teacher at {place}" for place in places[:5]),
        "and in 2 places more: see trust.json",
    ]


def test_paths_of_teacher_and_gradients_are_the_run_files_own(tmp_path):
    text = '[run]\nname = "d"\nworkspace = "work"\n[train]\nlabels = ["teff"]\n'
    text += 'teacher = "giants.npz"\ngradients = "slopes.npz"\n'
    (tmp_path / "run.toml").write_text(text)
    table = load_config(tmp_path / "run.toml").train
    assert table.teacher == str(tmp_path / "giants.npz")
    assert table.gradients == str(tmp_path / "slopes.npz")


def test_labels_other_than_the_teachers_are_refused(tmp_path):
    save_model(str(tmp_path / "teacher"), transformer())
    table = table_of(str(tmp_path / "teacher"), labels=("teff", "logg"))
    with pytest.raises(ModelError, match="the teacher has labels"):
        distill_loop(LocalContext(), table, str(tmp_path / "student"), seed=4)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"model": "cannon"}, "teaches payne"), ({"library": "l.zarr"}, "give either")],
)
def test_a_table_that_cannot_be_taught_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        table_of("teacher", **change)


def test_a_run_file_with_a_teacher_yields_one_training_until_it_is_done(tmp_path):
    save_model(str(tmp_path / "teacher"), transformer())
    table = table_of(str(tmp_path / "teacher"), rounds=(0,))
    config = RunConfig.model_validate(
        {
            "run": {"name": "d", "workspace": str(tmp_path / "work")},
            "train": table.model_dump(exclude_unset=True),
        }
    )
    (step,) = train(config)
    assert isinstance(step, Training)
    step.loop(LocalContext())
    assert paths.exists(paths.join(folders.model_url(config), TRUST_NAME))
    assert list(train(config)) == []
    before = folders.model_url(config)
    other = transformer()
    with torch.no_grad():
        other.flux.weight.mul_(2)
    save_model(str(tmp_path / "teacher"), other)
    assert folders.model_url(config) != before  # another teacher, another student
