"""Wrong command lines: each names one thing that cannot be, in the folder of `write_workshop`.

The first word is the door: `asr`, or `train.py` for the recipe.
"""

from golden import TRAINING, Done, call, call_recipe

RECIPE_WORDS = [word for word in TRAINING if not word.startswith("folder=")]

WRONG_CALLS = [
    line.split()
    for line in """
asr
asr transcrib sample.flac
asr --no-such-option
asr transcribe
asr transcribe missing.wav --checkpoint=run/last.pt
asr transcribe empty.wav --checkpoint=run/last.pt
asr transcribe text.wav --checkpoint=run/last.pt
asr transcribe cut.flac --checkpoint=run/last.pt
asr transcribe tiny.txt --checkpoint=run/last.pt
asr transcribe folder --checkpoint=run/last.pt
asr transcribe - -
asr transcribe missing.wav empty.wav --checkpoint=run/last.pt
asr transcribe sample.flac --formt=json
asr transcribe sample.flac --format=docx
asr transcribe sample.flac --checkpoint=missing.pt
asr transcribe sample.flac --checkpoint=empty.pt
asr transcribe sample.flac --checkpoint=noise.pt
asr transcribe sample.flac --checkpoint=cut.pt
asr transcribe sample.flac --checkpoint=tiny.txt
asr transcribe sample.flac --checkpoint=folder
asr transcribe sample.flac --checkpoint=run
asr transcribe sample.flac --device=abacus --checkpoint=run/last.pt
asr transcribe sample.flac --device=cuda:99 --checkpoint=run/last.pt
asr transcribe sample.flac --threads=0
asr transcribe sample.flac --threads=many
asr transcribe sample.flac --threads=100000
asr transcribe sample.flac --beam=0
asr transcribe sample.flac --beam=-3
asr transcribe sample.flac --alpha=nan --lm=tiny.lm --checkpoint=run/last.pt
asr transcribe sample.flac --alpha=heavy
asr transcribe sample.flac --latency=-1 --checkpoint=run/last.pt
asr transcribe sample.flac --latency=0 --checkpoint=run/last.pt
asr transcribe sample.flac --pause=-1 --checkpoint=run/last.pt
asr transcribe sample.flac --pause=inf --checkpoint=run/last.pt
asr transcribe sample.flac --nbest=3
asr transcribe sample.flac --format=json --nbest=0
asr transcribe sample.flac --decoder=greedy --lm=tiny.lm
asr transcribe sample.flac --decoder=greedy --beam=8
asr transcribe sample.flac --decoder=oracle
asr transcribe sample.flac --checkpoint=run/last.pt --alpha=0.5
asr transcribe sample.flac --checkpoint=run/last.pt --strict
asr transcribe sample.flac --checkpoint=run/last.pt --lexicon=words.txt --prior=0.5
asr transcribe sample.flac --strict --unknown=-3
asr transcribe sample.flac --hotword-weight=2 --checkpoint=run/last.pt
asr transcribe sample.flac --hotwords=missing.txt --checkpoint=run/last.pt
asr transcribe sample.flac --hotwords=empty.txt --checkpoint=run/last.pt
asr transcribe sample.flac --lexicon=latin.txt --checkpoint=run/last.pt
asr transcribe sample.flac --lm=missing.lm --checkpoint=run/last.pt
asr transcribe sample.flac --lm=empty.lm --checkpoint=run/last.pt
asr transcribe sample.flac --lm=cut.lm --checkpoint=run/last.pt
asr transcribe sample.flac --lm=tiny.txt --checkpoint=run/last.pt
asr transcribe sample.flac --lm=folder --checkpoint=run/last.pt
asr transcribe sample.flac --output=tiny.txt
asr transcribe sample.flac sample.flac --output=out
asr transcribe sample.flac sample.flac --format=srt
asr transcribe sample.flac sample.flac --format=ctm
asr stream
asr stream missing.wav --checkpoint=run/last.pt
asr stream empty.wav --checkpoint=run/last.pt
asr stream folder --checkpoint=run/last.pt
asr stream sample.flac --microphone
asr stream sample.flac --rate=8000
asr stream - --realtime
asr stream - --rate=0
asr stream - --rate=1 --checkpoint=run/last.pt
asr stream sample.flac --latency=1 --checkpoint=run/last.pt
asr stream sample.flac --latency=soon
asr stream sample.flac --checkpoint=cut.pt
asr align sample.flac
asr align - -
asr align missing.wav words --checkpoint=run/last.pt
asr align folder words --checkpoint=run/last.pt
asr align sample.flac missing.txt --checkpoint=run/last.pt
asr align sample.flac latin.txt --checkpoint=run/last.pt
asr align sample.flac empty.txt --checkpoint=run/last.pt
asr align sample.flac results.json
asr align sample.flac words --format=txt
asr align sample.flac words --output=folder
asr align corpus/audio/u00.wav far-too-many-words-for-half-a-second --checkpoint=run/last.pt
asr evaluate
asr evaluate missing.jsonl --checkpoint=run/last.pt
asr evaluate empty.jsonl --checkpoint=run/last.pt
asr evaluate broken.jsonl --checkpoint=run/last.pt
asr evaluate list.jsonl --checkpoint=run/last.pt
asr evaluate keyless.jsonl --checkpoint=run/last.pt
asr evaluate twins.jsonl --checkpoint=run/last.pt
asr evaluate folder --checkpoint=run/last.pt
asr evaluate sample.flac --checkpoint=run/last.pt
asr evaluate gone.jsonl --checkpoint=run/last.pt
asr evaluate corpus/dev.jsonl --checkpoint=noise.pt
asr evaluate corpus/dev.jsonl --output=tiny.txt
asr evaluate corpus/dev.jsonl --processes=0
asr evaluate corpus/dev.jsonl --profile=klingon
asr score texts.kaldi
asr score missing.kaldi texts.kaldi
asr score texts.kaldi others.kaldi
asr score texts.kaldi empty.txt
asr score folder texts.kaldi
asr score latin.txt texts.kaldi
asr score broken.jsonl texts.kaldi
asr score keyless.jsonl texts.kaldi
asr doctor
asr doctor missing.jsonl
asr doctor folder
asr doctor gone.jsonl
asr doctor corpus/dev.jsonl corpus/dev.jsonl
asr doctor corpus/dev.jsonl --strict
asr doctor corpus/dev.jsonl --threads=0
asr doctor corpus/dev.jsonl --batch-seconds=0
asr doctor corpus/dev.jsonl --fastest=0.5
asr doctor corpus/dev.jsonl --json=folder
asr doctor corpus/dev.jsonl --json=corpus/dev.jsonl
asr doctor corpus/dev.jsonl --json=report --html=report
asr doctor corpus/dev.jsonl --checkpoint=run/last.pt --vocabulary=english
asr doctor corpus/dev.jsonl --checkpoint=noise.pt
asr tune corpus/dev.jsonl
asr tune corpus/dev.jsonl --checkpoint=run/last.pt
asr tune missing.jsonl --checkpoint=run/last.pt --lm=tiny.lm
asr tune corpus/dev.jsonl --checkpoint=run/last.pt --lm=tiny.lm --trials=0
asr tune corpus/dev.jsonl --checkpoint=run/last.pt --lm=tiny.lm --picture=tuning.jpg
asr average run/last.pt -o average.pt
asr average run/last.pt run/last.pt -o average.pt
asr average run/last.pt run/best.pt
asr average run/last.pt run/best.pt -o run/best.pt
asr average run/last.pt missing.pt -o average.pt
asr average run/last.pt noise.pt -o average.pt
asr average run/last.pt run/best.pt -o average.pt --manifest=gone.jsonl
asr release run
asr release missing.pt released
asr release noise.pt released
asr release folder released
asr release run folder
asr release run released --lm=tiny.txt
asr release run released --lm=missing.lm
asr release run released --results=results.json
asr release run released --notes=missing.md
asr lm
asr lm train tiny.txt
asr lm train missing.txt -o new.lm
asr lm train empty.txt -o new.lm
asr lm train latin.txt -o new.lm
asr lm train folder -o new.lm
asr lm train tiny.txt -o folder
asr lm train tiny.txt -o new.lm --order=0
asr lm train tiny.txt -o new.lm --order=9
asr lm train tiny.txt -o new.lm --prune -1
asr lm train tiny.txt -o new.lm --prune 1 0
asr lm train tiny.txt -o new.arpa --quantize
asr lm info missing.lm
asr lm info cut.lm
asr lm info sample.flac
asr lm perplexity tiny.lm missing.txt
asr lm perplexity tiny.lm empty.txt
asr lm perplexity empty.lm tiny.txt
asr lm convert tiny.lm
asr lm convert missing.arpa new.lm
asr lm convert tiny.txt new.lm
asr info missing.pt
asr info folder
asr info tiny.txt
asr info empty.wav
asr info cut.pt
asr info broken.jsonl
asr info sample.flac --picture=picture.jpg
asr info run/last.pt --picture=picture.png
train.py folder=new training.epoch=3
train.py folder=new training.epochs=0
train.py folder=new training.epochs=many
train.py folder=new training.learning_rate=-1
train.py folder=new training.precision=float16
train.py folder=new training.start_from=missing.pt
train.py folder=new training.start_from=run/best.pt features.mels=9
train.py folder=new encoder=transformer
train.py folder=new encoder.hidden=0
train.py folder=new encoder.kind=sideways
train.py folder=new augment.speeds=fast
train.py folder=new data.vocabulary=latin
train.py folder=new data.train=missing.jsonl
train.py folder=new data.train=empty.jsonl
train.py folder=new data.dev=broken.jsonl
train.py folder=new data.dev=gone.jsonl
train.py folder=new --device=abacus
train.py folder=new --threads=-1
train.py folder=new --nonsense
train.py folder=new nonsense
train.py folder=tiny.txt
train.py folder=run encoder.hidden=17
train.py folder=run training.seed=2
""".splitlines()
    if line
]


def observe_wrong_call(words: list[str]) -> Done:
    """Make a wrong call in this process, in the current folder."""
    door, *rest = words
    if door == "asr":
        return call(*rest)
    given = {word.partition("=")[0] for word in rest}
    return call_recipe(*(w for w in RECIPE_WORDS if w.partition("=")[0] not in given), *rest)
