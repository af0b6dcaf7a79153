from emobench.serving.scripted.cli import main

raise SystemExit(main())
