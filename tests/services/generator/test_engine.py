import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.artifacts import Home
from contracts.errors import DeadlineExceeded, InternalError, NotReady, Overloaded, Unavailable
from services.generator.engine import Engine
from services.generator.jobs import Generated, Job
from services.generator.lora import LoraWeights
from services.generator.model import load_base
from services.generator.paged import Request
from services.generator.settings import GeneratorSettings
from services.generator.weights import read_weights
from tests.services.generator.conftest import publish
from tests.serving import eventually


def job(prompt: list[int], adapter: str | None = None, **changes: object) -> Job:
    given = {"max_new_tokens": 12, "temperature": 0.0, "seed": None, "deadline": time.monotonic() + 300, **changes}
    return Job(prompt=prompt, adapter=adapter, **given)


def run(engine: Engine, job: Job) -> Generated:
    engine.submit(job)
    return job.done.result(120)


def crowded(settings: GeneratorSettings, home: Home, base_folder: Path) -> tuple[Engine, dict[str, list[int]]]:
    """Three adapters in an engine that has room for two and keeps none beside the model; and what each says."""
    engine, said = Engine(load_base(settings), max_batch=4, queue_limit=100, columns=8, kept_bytes=1), {}
    for seed in (1, 2, 3):
        id = publish(home, base_folder, f"n{seed}", seed=seed).id
        engine.load(id, home.adapters / id).result(60)
        said[id] = run(engine, job([5, 6, 7], id)).tokens
    return engine, said


def held_files(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An adapter's files are read only once the event is set."""
    go_on = threading.Event()
    monkeypatch.setattr(
        "services.generator.engine.read_weights", lambda *given: (go_on.wait(30), read_weights(*given))[1]
    )
    return go_on


def prompts(count: int) -> list[list[int]]:
    source = random.Random(5)
    return [[source.randrange(3, 700) for _ in range(source.randint(4, 60))] for _ in range(count)]


def test_500_mixed_requests_answer_as_one_at_a_time(engine: Engine, home: Home, base_folder: Path) -> None:
    adapters: list[str | None] = [None]
    for name, seed in (("one", 1), ("two", 2)):
        manifest = publish(home, base_folder, name, seed=seed)
        engine.load(manifest.id, home.adapters / manifest.id).result(60)
        adapters.append(manifest.id)
    asked = prompts(40)
    alone = {(n, adapter): run(engine, job(p, adapter)).tokens for n, p in enumerate(asked) for adapter in adapters}
    for adapter in adapters[1:]:
        differing = sum(alone[n, adapter] != alone[n, None] for n in range(len(asked)))
        assert differing >= 0.9 * len(asked)

    keys = random.Random(7).choices(list(alone), k=500)

    def ask(key: tuple[int, str | None]) -> list[int]:
        return run(engine, job(asked[key[0]], key[1])).tokens

    with ThreadPoolExecutor(64) as clients:
        mixed = list(clients.map(ask, keys))
    assert mixed == [alone[key] for key in keys]


def test_each_row_of_a_batch_ends_at_its_own_length(engine: Engine) -> None:
    jobs = [job(prompt, max_new_tokens=n) for n, prompt in enumerate(prompts(9)[1:], start=1)]
    for each in jobs:
        engine.submit(each)
    for n, each in enumerate(jobs, start=1):
        assert len(each.done.result(60).tokens) <= n


def test_adapters_come_and_go_while_requests_run(engine: Engine, home: Home, base_folder: Path) -> None:
    manifest = publish(home, base_folder, "guest", seed=3)
    folder = home.adapters / manifest.id
    asked = prompts(6)
    alone = [run(engine, job(prompt)).tokens for prompt in asked]
    for _ in range(3):
        running = [job(prompt) for prompt in asked]
        for each in running:
            engine.submit(each)
        engine.load(manifest.id, folder).result(60)
        assert run(engine, job(asked[0], manifest.id)).tokens != alone[0]
        engine.unload(manifest.id).result(60)
        assert [each.done.result(60).tokens for each in running] == alone
    with pytest.raises(Unavailable):
        run(engine, job(asked[0], manifest.id))


def test_a_broken_adapter_leaves_no_residue(engine: Engine, home: Home, base_folder: Path) -> None:
    good = publish(home, base_folder, "good", seed=1)
    engine.load(good.id, home.adapters / good.id).result(60)
    before = [run(engine, job(prompt, good.id)).tokens for prompt in prompts(4)]
    broken = home.adapters / "broken.000000000000"
    broken.mkdir()
    for path in (home.adapters / good.id).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Exception, match=r".+"):
        engine.load(broken.name, broken).result(60)
    assert [run(engine, job(prompt, good.id)).tokens for prompt in prompts(4)] == before
    with pytest.raises(Unavailable):
        run(engine, job([5, 6, 7], broken.name))


def test_a_first_adapter_that_cannot_be_loaded_leaves_the_base_as_it_was(
    engine: Engine, home: Home, base_folder: Path
) -> None:
    before = [run(engine, job(prompt)).tokens for prompt in prompts(4)]
    manifest = publish(home, base_folder, "broken", seed=1)
    folder = home.adapters / manifest.id
    tensors = load_file(folder / "adapter_model.safetensors")
    last = sorted(tensors)[-1]
    save_file({**tensors, last: torch.ones(3, 3)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="size mismatch"):
        engine.load(manifest.id, folder).result(60)
    assert [run(engine, job(prompt)).tokens for prompt in prompts(4)] == before
    good = publish(home, base_folder, "good", seed=2)
    engine.load(good.id, home.adapters / good.id).result(60)
    assert run(engine, job(prompts(1)[0], good.id)).tokens != before[0]
    assert [run(engine, job(prompt)).tokens for prompt in prompts(4)] == before


def test_two_names_for_the_same_weights_are_two_adapters(engine: Engine, home: Home, base_folder: Path) -> None:
    twins = [publish(home, base_folder, name, seed=1) for name in ("one", "two")]
    for twin in twins:
        engine.load(twin.id, home.adapters / twin.id).result(60)
    assert twins[0].id.split(".")[1] == twins[1].id.split(".")[1]
    prompt = prompts(1)[0]
    tokens = run(engine, job(prompt, twins[0].id)).tokens
    engine.unload(twins[0].id).result(60)
    assert run(engine, job(prompt, twins[1].id)).tokens == tokens


def test_a_load_that_nobody_waits_for_any_more_harms_nothing(engine: Engine, home: Home, base_folder: Path) -> None:
    manifest = publish(home, base_folder, "one", seed=1)
    long = job(prompts(1)[0], max_new_tokens=200, temperature=0.1)
    engine.submit(long)
    # the thread may have taken a load up before it is cancelled; of many it has not taken them all
    loads = [engine.load(manifest.id, home.adapters / manifest.id) for _ in range(20)]
    assert [load.cancel() for load in reversed(loads)].count(True) > 0
    long.cancel()
    assert run(engine, job(prompts(1)[0])).tokens
    assert engine.alive
    engine.load(manifest.id, home.adapters / manifest.id).result(60)


def test_sampling_repeats_with_its_seed(engine: Engine) -> None:
    prompt = prompts(1)[0]
    first, second, other = (
        run(engine, job(prompt, temperature=1.5, seed=seed, max_new_tokens=24)).tokens for seed in (1, 1, 2)
    )
    assert first == second != other


def test_a_deadline_ends_the_request(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        run(engine, job([5, 6, 7], deadline=time.monotonic() - 1))


def test_a_full_queue_refuses(settings: GeneratorSettings) -> None:
    engine = Engine(load_base(settings), max_batch=1, queue_limit=2)
    jobs = [job([5, 6, 7], max_new_tokens=200, temperature=0.1) for _ in range(30)]

    def submit_all() -> None:
        for each in jobs:
            engine.submit(each)

    with pytest.raises(Overloaded) as refused:
        submit_all()
    assert refused.value.retry_after
    for each in jobs:
        each.cancel()
    engine.stop()


def test_a_stopping_engine_finishes_what_it_took(settings: GeneratorSettings) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=100)
    jobs = [job(prompt) for prompt in prompts(10)]
    for each in jobs:
        engine.submit(each)
    engine.stop(grace_s=60)
    assert all(each.done.result(0).tokens is not None for each in jobs)
    with pytest.raises(Unavailable):
        engine.submit(job([5, 6, 7]))


def test_more_adapters_than_there_is_room_for_take_turns(
    settings: GeneratorSettings, home: Home, base_folder: Path
) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=1000, columns=8)  # two of rank 4
    ids = []
    for seed in range(1, 6):
        manifest = publish(home, base_folder, f"n{seed}", seed=seed)
        engine.load(manifest.id, home.adapters / manifest.id, manifest.files).result(60)
        ids.append(manifest.id)
    asked = prompts(6)
    alone = {(n, id): run(engine, job(prompt, id)).tokens for n, prompt in enumerate(asked) for id in ids}
    assert len({tuple(alone[0, id]) for id in ids}) == len(ids)
    keys = random.Random(3).choices(list(alone), k=120)
    with ThreadPoolExecutor(16) as clients:
        mixed = list(clients.map(lambda key: run(engine, job(asked[key[0]], key[1])).tokens, keys))
    assert mixed == [alone[key] for key in keys]
    engine.stop()


def test_requests_end_with_the_adapter_that_they_began_with(engine: Engine, home: Home, base_folder: Path) -> None:
    manifest = publish(home, base_folder, "guest", seed=3)
    folder = home.adapters / manifest.id
    engine.load(manifest.id, folder).result(60)
    asked = prompts(8)
    alone = [run(engine, job(prompt, manifest.id, max_new_tokens=60)).tokens for prompt in asked]
    running = [job(prompt, manifest.id, max_new_tokens=60) for prompt in asked]
    begun = threading.Event()
    running[0].on_piece = lambda _: begun.set()
    for each in running:
        engine.submit(each)
    assert begun.wait(60)
    engine.unload(manifest.id).result(60)
    with pytest.raises(Unavailable):
        run(engine, job(asked[0], manifest.id))
    engine.load(manifest.id, folder).result(60)  # while the old requests may still run
    assert run(engine, job(asked[0], manifest.id, max_new_tokens=60)).tokens == alone[0]
    assert [each.done.result(60).tokens for each in running] == alone


def test_an_adapter_that_was_swapped_after_its_check_is_not_loaded(
    engine: Engine, home: Home, base_folder: Path
) -> None:
    manifest, other = publish(home, base_folder, "one", seed=1), publish(home, base_folder, "two", seed=2)
    weights = home.adapters / manifest.id / "adapter_model.safetensors"
    weights.write_bytes((home.adapters / other.id / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="changed after it was checked"):
        engine.load(manifest.id, home.adapters / manifest.id, manifest.files).result(60)
    with pytest.raises(Unavailable):
        run(engine, job([5, 6, 7], manifest.id))


def test_an_adapter_whose_sums_overflow_is_not_loaded(engine: Engine, home: Home, base_folder: Path) -> None:
    manifest = publish(home, base_folder, "loud", seed=1)
    weights = home.adapters / manifest.id / "adapter_model.safetensors"
    save_file({name: value * 0 + 3e38 for name, value in load_file(weights).items()}, weights)
    before = [run(engine, job(prompt)).tokens for prompt in prompts(3)]
    with pytest.raises(ValueError, match="not finite"):
        engine.load(manifest.id, home.adapters / manifest.id).result(60)
    assert [run(engine, job(prompt)).tokens for prompt in prompts(3)] == before
    with pytest.raises(Unavailable):
        run(engine, job([5, 6, 7], manifest.id))


def test_a_model_that_fails_ends_one_request_and_answers_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(6)
    alone = [run(engine, job(prompt)).tokens for prompt in asked]
    forward = engine.base.model.forward

    def poisoned(*given: object, **named: torch.Tensor) -> object:
        if bool((named["input_ids"] == 701).any()):
            raise RuntimeError("a fault")
        return forward(*given, **named)

    monkeypatch.setattr(engine.base.model, "forward", poisoned)
    jobs = [job(prompt) for prompt in (*asked[:3], [*asked[3], 701], *asked[4:])]
    for each in jobs:
        engine.submit(each)
    with pytest.raises(InternalError, match="RuntimeError"):
        jobs[3].done.result(60)
    others = [each.done.result(60).tokens for n, each in enumerate(jobs) if n != 3]
    assert others == [tokens for n, tokens in enumerate(alone) if n != 3]


def test_an_adapter_that_goes_mad_in_service_fails_its_own_requests_only(
    engine: Engine, home: Home, base_folder: Path
) -> None:
    manifest = publish(home, base_folder, "one", seed=1)
    engine.load(manifest.id, home.adapters / manifest.id).result(60)
    asked = prompts(4)
    alone = [run(engine, job(prompt)).tokens for prompt in asked]
    for layer in engine._adapters._layers.values():
        layer.down.fill_(3e38)
    mad, well = [job(prompt, manifest.id) for prompt in asked], [job(prompt) for prompt in asked]
    for each in (*mad, *well):
        engine.submit(each)
    for each in mad:
        with pytest.raises(InternalError, match="not a number"):
            each.done.result(60)
    assert [each.done.result(60).tokens for each in well] == alone


def test_a_pinned_adapter_is_not_the_one_that_makes_room(
    settings: GeneratorSettings, home: Home, base_folder: Path
) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=100, columns=8)  # two of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2, 3)]
    for id in ids[:2]:
        engine.load(id, home.adapters / id).result(60)
    engine.pin(ids[0], True).result(60)
    engine.load(ids[2], home.adapters / ids[2]).result(60)
    assert ids[0] in engine._adapters
    assert ids[1] not in engine._adapters
    assert run(engine, job([5, 6, 7], ids[1])).tokens
    engine.stop()


def test_nobody_makes_room_in_vain(settings: GeneratorSettings, home: Home, base_folder: Path) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=100, columns=8)  # two of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2)]
    for id in ids:
        engine.load(id, home.adapters / id).result(60)
    engine.pin(ids[1], True).result(60)
    weights = engine._known[ids[0]].weights
    assert weights is not None
    wide = LoraWeights(8, 1.0, {name: (torch.zeros(8, a.shape[1]), b) for name, (a, b) in weights.matrices.items()})
    with pytest.raises(Unavailable, match="no room"):
        engine.load_weights("wide", wide).result(60)
    assert ids[0] in engine._adapters, "its going would not have helped"
    engine.stop()


def test_beside_the_model_they_keep_to_their_memory_and_come_back_from_their_files(
    settings: GeneratorSettings, home: Home, base_folder: Path
) -> None:
    engine, said = crowded(settings, home, base_folder)
    assert not any(known.weights for known in engine._known.values())
    for id in [*said, *said]:
        assert run(engine, job([5, 6, 7], id)).tokens == said[id]
    away = next(id for id in said if id not in engine._adapters)
    shutil.rmtree(home.adapters / away)
    with pytest.raises(Unavailable, match="cannot be read any more"):
        run(engine, job([5, 6, 7], away))
    engine.stop()


def test_what_is_not_done_within_the_grace_time_is_refused(settings: GeneratorSettings) -> None:
    engine = Engine(load_base(settings), max_batch=2, queue_limit=100)
    jobs = [job(prompt, max_new_tokens=900) for prompt in prompts(8)]
    for each in jobs:
        engine.submit(each)
    begun = time.monotonic()
    engine.stop(grace_s=0.3)
    assert time.monotonic() - begun < 5
    assert not engine.alive
    assert {str(each.done.exception(0)) for each in jobs} == {"The generator is stopping."}


def test_an_adapter_that_is_read_again_is_placed_once(
    settings: GeneratorSettings, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, said = crowded(settings, home, base_folder)
    away = next(id for id in said if id not in engine._adapters)
    go_on, reads = threading.Event(), []

    def slowly(*given: object) -> LoraWeights:
        reads.append(given)
        go_on.wait(30)
        return read_weights(*given)

    monkeypatch.setattr("services.generator.engine.read_weights", slowly)
    impatient, patient = job([5, 6, 7], away), job([5, 6, 7], away)
    engine.submit(impatient)
    eventually(lambda: reads, "it is read")
    impatient.cancel()
    eventually(impatient.done.done, "it has left")
    engine.submit(patient)
    time.sleep(0.1)
    go_on.set()
    assert patient.done.result(30).tokens == said[away]
    assert len(reads) == 1
    assert {id: run(engine, job([5, 6, 7], id)).tokens for id in said} == said
    engine.stop()


def test_what_was_accepted_is_answered_though_its_adapter_is_unloaded(
    engine: Engine, home: Home, base_folder: Path
) -> None:
    manifest = publish(home, base_folder, "one", seed=1)
    engine.load(manifest.id, home.adapters / manifest.id).result(60)
    engine.pin(manifest.id, True).result(60)
    alone = run(engine, job([5, 6, 7], manifest.id)).tokens
    jobs = [job([5, 6, 7], manifest.id) for _ in range(60)]  # more than run at once
    for each in jobs:
        engine.submit(each)
    engine.unload(manifest.id).result(60)
    with pytest.raises(Unavailable, match="unloaded"):
        engine.submit(job([5, 6, 7], manifest.id))
    assert all(each.done.result(60).tokens == alone for each in jobs)
    eventually(lambda: manifest.id not in engine._adapters, "it has left")
    engine.load(manifest.id, home.adapters / manifest.id).result(60)
    assert not engine._known[manifest.id].pinned


def test_a_stop_answers_what_waits_for_an_adapter_that_is_not_in_the_model(
    settings: GeneratorSettings, home: Home, base_folder: Path
) -> None:
    engine = Engine(load_base(settings), max_batch=2, queue_limit=100, columns=4, kept_bytes=1)  # one of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2)]
    for id in ids:
        engine.load(id, home.adapters / id).result(60)
    jobs = [job(prompt, id) for prompt in prompts(3) for id in ids]
    for each in jobs:
        engine.submit(each)
    engine.stop(grace_s=30)
    assert all(each.done.result(0).tokens for each in jobs)


def test_those_that_wait_for_an_adapter_count_and_those_that_left_do_not(
    settings: GeneratorSettings, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(load_base(settings), max_batch=2, queue_limit=5, columns=4, kept_bytes=1)  # one of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2)]
    for id in ids:
        engine.load(id, home.adapters / id).result(60)
    go_on = held_files(monkeypatch)
    waiting = [job([5, 6, 7], ids[0]) for _ in range(5)]
    for each in waiting:
        engine.submit(each)
    with pytest.raises(Overloaded):
        engine.submit(job([5, 6, 7]))
    for each in waiting:
        each.cancel()
    eventually(lambda: engine.load_now().waiting == 0, "they have left")
    assert run(engine, job([5, 6, 7])).tokens
    go_on.set()
    engine.stop()


def test_a_stop_that_waits_for_a_file_sleeps_meanwhile(
    settings: GeneratorSettings, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(load_base(settings), max_batch=2, queue_limit=5, columns=4, kept_bytes=1)  # one of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2)]
    for id in ids:
        engine.load(id, home.adapters / id).result(60)
    go_on, turns = held_files(monkeypatch), []
    waiting = job([5, 6, 7], ids[0])
    engine.submit(waiting)
    eventually(lambda: engine._parked, "its file is being read")
    let_go = engine._let_go
    monkeypatch.setattr(engine, "_let_go", lambda: (turns.append(1), let_go()))
    stopping = threading.Thread(target=engine.stop, args=(30,))
    stopping.start()
    time.sleep(1.0)
    assert len(turns) < 20
    go_on.set()
    stopping.join(40)
    assert waiting.done.result(0).tokens


def test_who_asks_again_at_once_is_in_the_next_step(
    settings: GeneratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.generator.engine.LINGER", 0.5)  # a busy machine wakes the client late
    engine = Engine(load_base(settings), max_batch=2, queue_limit=100)
    sizes: list[int] = []
    step = engine._batch.step

    def slow() -> list[Request]:
        time.sleep(0.3)
        stepped = step()
        sizes.append(len(stepped))
        return stepped

    engine._batch.step = slow
    long = job([5, 6, 7], max_new_tokens=12)
    engine.submit(long)
    for _ in range(5):  # one after another beside the long one, two steps each
        run(engine, job([8, 9], max_new_tokens=2))
    long.done.result(60)
    engine.stop()
    assert sizes[1:11].count(1) <= 1, "else it is left out of every third step"


def test_others_do_not_keep_an_adapter_from_its_turn(
    settings: GeneratorSettings, home: Home, base_folder: Path
) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=1000, columns=4)  # one of rank 4
    busy, other = (publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2))
    for id in (other, busy):
        engine.load(id, home.adapters / id).result(60)
    over = threading.Event()

    def keep_asking(_: int) -> int:
        asked = 0
        while not over.is_set():
            asked += bool(run(engine, job([5, 6, 7], busy, max_new_tokens=40)))
        return asked

    with ThreadPoolExecutor(8) as clients:
        others = [clients.submit(keep_asking, number) for number in range(8)]
        time.sleep(0.3)
        answered = run(engine, job([5, 6, 7], other, deadline=time.monotonic() + 15))
        over.set()
        assert answered.tokens
        assert sum(each.result(60) for each in others) > 8
    engine.stop()


@pytest.mark.parametrize("temperature", [1e-38, 1e-300, 1e-7])
def test_a_tiny_temperature_is_greedy_and_changes_nobody(engine: Engine, temperature: float) -> None:
    asked = prompts(4)
    alone = [run(engine, job(prompt, temperature=1.2, seed=3)).tokens for prompt in asked]
    jobs = [job(prompt, temperature=1.2, seed=3) for prompt in asked]
    cold = job(asked[0], temperature=temperature, seed=1)
    for each in (*jobs, cold):
        engine.submit(each)
    assert cold.done.result(30).tokens == run(engine, job(asked[0])).tokens
    assert [each.done.result(30).tokens for each in jobs] == alone


def test_what_is_computed_again_is_drawn_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(4)
    alone = [run(engine, job(prompt, temperature=1.2, seed=3)).tokens for prompt in asked]
    choose, calls = engine._batch._choose, []

    def fails_at_times(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
        calls.append(len(requests))
        chosen = choose(logits, requests)
        if len(calls) in (3, 9) and len(requests) > 1:
            raise torch.OutOfMemoryError("full")
        return chosen

    monkeypatch.setattr(engine._batch, "_choose", fails_at_times)
    jobs = [job(prompt, temperature=1.2, seed=3) for prompt in asked]
    for each in jobs:
        engine.submit(each)
    assert [each.done.result(60).tokens for each in jobs] == alone
    assert len(calls) > 9


def test_pins_that_leave_no_room_for_each_other(settings: GeneratorSettings, home: Home, base_folder: Path) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=100, columns=8)  # two of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2, 3)]
    for id in ids:
        engine.load(id, home.adapters / id).result(60)
    for id in ids[:2]:
        engine.pin(id, True).result(60)
    with pytest.raises(NotReady, match="Unpin one"):
        engine.pin(ids[2], True).result(60)
    engine.stop()


def test_nobody_waits_for_a_thread_that_has_died(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> None:
        raise MemoryError("the end")

    monkeypatch.setattr(engine, "_let_go", dies)
    waiting = job(prompts(1)[0])
    engine.submit(waiting)
    with pytest.raises(InternalError, match="has ended"):
        waiting.done.result(30)
    engine._thread.join(30)
    assert not engine.alive
    with pytest.raises(Unavailable):
        engine.submit(job([5, 6, 7]))


def test_who_finds_all_room_pinned_is_told_at_once(settings: GeneratorSettings, home: Home, base_folder: Path) -> None:
    engine = Engine(load_base(settings), max_batch=4, queue_limit=100, columns=8)  # two of rank 4
    ids = [publish(home, base_folder, f"n{seed}", seed=seed).id for seed in (1, 2, 3)]
    for id in ids:
        engine.load(id, home.adapters / id).result(60)
    for id in ids[1:]:
        engine.pin(id, True).result(60)
    with pytest.raises(Unavailable, match="no room"):
        run(engine, job([5, 6, 7], ids[0]))
    engine.pin(ids[1], False).result(60)
    assert run(engine, job([5, 6, 7], ids[0])).tokens
    engine.stop()
