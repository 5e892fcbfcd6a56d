"""A page in the browser: upload or record a clip, see ranked intents, which modality mattered and when.

    python examples/demo.py runs/quickstart/seed_0/final
    python examples/demo.py me/first me/second --asr openai/whisper-tiny.en
    python examples/demo.py me/first --write_space space --package "hf_mmintent[demo] @ git+https://…"

Needs `pip install "hf_mmintent[demo]"`. The first form works offline. The last line is the page's address.
"""

from __future__ import annotations

import argparse

from hf_mmintent.demo import Labeller, build_app, write_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="folders or Hub ids to choose from")
    parser.add_argument("--asr", help="speech recognition checkpoint for clips without transcript")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--write_space", help="only write the files of a Space into this folder")
    parser.add_argument("--package", default="hf_mmintent[demo]", help="how a Space installs this package")
    arguments = parser.parse_args()
    if arguments.write_space:
        print(write_space(arguments.write_space, arguments.checkpoints, arguments.package, arguments.asr))
        return
    app = build_app(Labeller(arguments.checkpoints, arguments.asr, arguments.device))
    app.launch(server_name=arguments.host, server_port=arguments.port, share=False)


if __name__ == "__main__":
    main()
