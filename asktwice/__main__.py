from asktwice.cli import main

main()
