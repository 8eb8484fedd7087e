"""Studies, one file each: `STUDY = reporting.study.Study(...)`, run by `toddle study <name>`."""
