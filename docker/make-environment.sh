#!/usr/bin/env bash
# Makes the environment that an image runs: make-environment.sh SERVICE TARGET [REQUIREMENTS]
#
# Both Dockerfiles call it, and so does the test that replays them. It needs Python with venv, and nothing that compiles:
# each package is a wheel with a known hash. TARGET holds no pip, no code of other services and none of their drivers,
# and nothing has to write to it later.
set -euo pipefail

service=${1:?SERVICE is missing} target=${2:?TARGET is missing}
requirements=${3:-requirements/$service.txt}
python=${PYTHON:-python3.11}
cd "$(dirname "$0")/.."

case $service in
hot-path-api | vector-search | graph-service | profile-store | gpu-worker | fleet-controller) modules=(${service//-/_}) ;;
laptop) modules=(hot_path_api vector_search graph_service profile_store gpu_worker recommend_cli) ;;
*)
    echo "there is no service $service" >&2
    exit 2
    ;;
esac

tools=$(mktemp --directory)
trap 'rm -rf "$tools"' EXIT
install=(install --quiet --no-compile --require-hashes --only-binary :all: --requirement)

# pip and the generator of the bindings live in an environment of their own, which is thrown away.
"$python" -m venv --symlinks "$tools"
pip=("$tools/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" "${install[@]}" requirements/build.txt
"$tools/bin/python" protos/generate.py

"$python" -m venv --symlinks --without-pip "$target"
"${pip[@]}" --python "$target/bin/python" "${install[@]}" "$requirements"
find "$target/bin" -mindepth 1 ! -name 'python*' -delete # the commands of packages
packages=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for package in numba numpy scipy; do # a fifth of their size
    [[ ! -d $packages/$package ]] || find "$packages/$package" -type d -name tests -prune -exec rm -rf {} +
done

for module in servicekit "${modules[@]}"; do
    cp -R "services/$module" "$packages/"
done
cp -R protos/gen/recommendation docker/launch.py "$packages/"
find "$packages/recommendation" -name '*.pyi' -delete
echo "$service" >"$target/service"
programs=(service healthy)
[[ $service != laptop ]] || programs+=(recommend)
for program in "${programs[@]}"; do
    printf '#!%s/bin/python\nimport launch\n\nlaunch.%s()\n' "$target" "$program" >"$target/bin/$program"
    chmod 755 "$target/bin/$program"
done

# An image keeps times in whole seconds, and numba's cache goes by them. Bytecode does not: nothing here changes again.
find "$target/lib" -name __pycache__ -prune -exec rm -rf {} +
find "$target/lib" -type f -exec touch --date="@${SOURCE_DATE_EPOCH:-1767225600}" {} +
"$target/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$target/lib" ||
    echo "some packages hold files for other Pythons" >&2
PYTHONDONTWRITEBYTECODE=1 "$target/bin/python" -c 'import launch; launch.warm()'
