#!/bin/sh
# The chain of a night: integrity, then training, then compaction; called by cron in the folder of conf/, with the
# settings in the environment. Prints a line for what somebody should look at, and nothing when all is well. Exit status
# 0: all is well, 1: something is not, or failed.
set -u
day=$(date -u +%Y%m%d)
mkdir -p logs reports
status=0

# run <name> <command> …: its output goes to a separate log; its exit status is the function's.
run() {
    name=$1
    shift
    "$@" >>"logs/$name-$day.log" 2>&1
}

# say <what> <name>: one line for the mail.
say() {
    echo "$1; see $PWD/logs/$2-$day.log"
    status=1
}

run integrity alerce-spark integrity --report "reports/integrity-$day.html"
case $? in
    0) complete=yes ;;
    1) complete=no && say "the night is not complete and right" integrity ;;
    *) complete=no && say "integrity could not be checked" integrity ;;
esac

# Nothing is learnt from tables that are not right.
if [ "$complete" = yes ]; then
    run retrain alerce-spark retrain --out "reports/$day"
    case $? in
        0) run reclassify alerce-spark reclassify || say "quiet objects have no class of the new model" reclassify ;;
        3) ;; # the model in use is not worse, and stays
        *) say "the model was not retrained" retrain ;;
    esac
fi

run compact alerce-spark compact || say "the tables were not compacted" compact

find logs reports -mindepth 1 -mtime +60 -delete
exit $status
