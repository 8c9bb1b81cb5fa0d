from segrefinery.cli import main

main()
