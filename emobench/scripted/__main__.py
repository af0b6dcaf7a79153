from emobench.scripted.command import main

raise SystemExit(main())
