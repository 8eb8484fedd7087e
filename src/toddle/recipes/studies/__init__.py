"""Studies, one file each: `STUDY = training.study.Study(...)`, run by `toddle study <name>`."""
