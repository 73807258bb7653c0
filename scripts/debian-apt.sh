# shellcheck shell=bash
# Debian packages of any release, from wherever this machine itself gets its packages. Sourced, never run.
# Nothing of the machine's own package manager is changed: lists, cache and status are kept in a folder of ours.

# The machine's own release, such as "bookworm".
debian_release() { (. /etc/os-release && printf '%s' "$VERSION_CODENAME"); }

# Lines of a sources.list for a release ("bookworm") or its security updates ("bookworm-security").
debian_source() {
  local label=Debian uri
  [[ $1 != *-security ]] || label=Debian-Security
  uri=$(apt-get indextargets --format "\$(REPO_URI) \$(ORIGIN) \$(LABEL)" 'Created-By: Packages' |
    awk -v label="$label" '$2 == "Debian" && $3 == label && !found {print $1; found = 1}')
  [ -n "$uri" ] || die "the machine's apt sources name no archive of $label: add one in /etc/apt and run apt-get update"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$uri" "$1"
}

# Sets APT, the words of a package manager that lives in folder $1, for the suites that follow, and fetches its lists.
apt_folder() {
  local folder=$1 suite
  shift
  mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial"
  for suite; do debian_source "$suite"; done >"$folder/sources.list"
  touch "$folder/status"
  APT=(apt-get -q -y -o "Dir::State=$folder/state" -o "Dir::State::status=$folder/status" -o "Dir::Cache=$folder/cache"
    -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root -o Acquire::Languages=none
    -o APT::Install-Recommends=false -o DPkg::Options::=--force-unsafe-io -o DPkg::Options::=--force-confnew)
  "${APT[@]}" update >&2
}

# Unpacks one package of a suite, without installing it: apt_unpack FOLDER SUITE PACKAGE TARGET
apt_unpack() {
  local APT
  apt_folder "$1" "$2"
  (cd "$1/cache" && rm -f "$3"_*.deb && "${APT[@]}" download "$3" >&2)
  dpkg -x "$1/cache/$3"_*.deb "$4"
}
